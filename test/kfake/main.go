// kfake: a Kafka that is none of Apache's, on loopback, for the integration tests: another reading of the protocol.
//
// It prints "ready PORT" when it listens, keeps all in memory, and ends with its standard input, so that it does not
// outlive whoever started it.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/twmb/franz-go/pkg/kfake"
)

func run() error {
	port := flag.Int("port", 0, "of 127.0.0.1; 0: a free one")
	flag.Parse()
	cluster, err := kfake.NewCluster(
		kfake.NumBrokers(1),
		kfake.Ports(*port),
		kfake.DefaultNumPartitions(1),
	)
	if err != nil {
		return err
	}
	defer cluster.Close()
	var bound int
	if _, err := fmt.Sscanf(cluster.ListenAddrs()[0], "127.0.0.1:%d", &bound); err != nil {
		return fmt.Errorf("kfake listens at %q: %w", cluster.ListenAddrs()[0], err)
	}
	fmt.Println("ready", bound)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "kfake:", err)
		os.Exit(1)
	}
}
