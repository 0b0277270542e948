/* Any name in parked/: it is a log's only when it is what would be written for it. */
#include "../../plugin/mm_parkdir.c" /* NOLINT(bugprone-suspicious-include): what is static there */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *name = strndup((const char *)data, size);
    struct mm_parkdir_log log;
    if (name == NULL) {
        abort();
    }
    if (parse_name(name, &log)) {
        char again[2 * MM_PARKDIR_NAME_LEN];
        if (log.age == 0) {
            snprintf(again, sizeof again, "%s", log.kafka_topic);
        } else {
            snprintf(again, sizeof again, "%s~%" PRIu64, log.kafka_topic, log.age);
        }
        if (strcmp(again, name) != 0 || strcmp(log.name, name) != 0 ||
            !mm_route_is_kafka_topic(log.kafka_topic)) {
            abort();
        }
    }
    free(name);
    return 0;
}
