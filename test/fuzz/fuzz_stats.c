/* librdkafka's statistics, in which stand names that Kafka has sent: figures, or an error and all
 * zero. */
#include "mm_error.h"
#include "mm_json.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct mm_kafka_stats zero;
    struct mm_kafka_stats stats;
    memset(&stats, 0xAA, sizeof stats);
    const int err = mm_json_kafka_stats((const char *)data, size, &stats);
    const int good = err == 0 ? stats.any_broker_up == (stats.n_brokers_up > 0)
                              : err == MM_EINVAL && stats.any_broker_up == zero.any_broker_up &&
                                    stats.n_brokers_up == 0 && stats.msg_cnt == 0 &&
                                    stats.msg_size == 0 && stats.rtt_avg_us == 0;
    if (!good) {
        abort();
    }
    return 0;
}
