/* mock_kafka.h - the command "mock-kafka". */
#ifndef MOCK_KAFKA_H
#define MOCK_KAFKA_H

#define MOCK_KAFKA_USAGE "[--brokers N] [--topic NAME[:PARTITIONS]]... [--write-address FILE]"

/* Serve librdkafka's mock cluster on loopback until SIGINT or SIGTERM. Keeps about 5 MiB a
 * partition, in memory. argv[0] is the command's name. Returns the exit code. */
int run_mock_kafka(int argc, char **argv);

#endif
