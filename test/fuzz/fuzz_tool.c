/* What the tool reads of others: the answer of whatever listens on the health port, and payloads in
 * a Kafka topic, of which "prove" has to know its own. The first byte says which. */
#include <stdio.h>
#include <stdlib.h>

static int show(const char *line);
#define puts(line) show(line)
#define fputs(line, file) ((void)0)
#include "../../tools/health.c" /* NOLINT(bugprone-suspicious-include): what is static there */
#undef puts
#undef fputs
#include "../../tools/prove_load.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool good)
{
    if (!good) {
        abort();
    }
}

static int show(const char *line)
{
    const size_t len = strlen(line);
    check(len < MAX_ANSWER && mm_utf8_valid(line, len) && strpbrk(line, "\r\n\x1B") == NULL);
    return 0;
}

static void check_answer(const uint8_t *data, size_t size)
{
    char answer[MAX_ANSWER];
    const size_t len = size < MAX_ANSWER - 1 ? size : MAX_ANSWER - 1;
    memcpy(answer, data, len);
    answer[len] = '\0';
    const bool good = judge(answer) == 0;
    check(!good || (strncmp(answer, "HTTP/1.", 7) == 0 && strstr(answer, " 200 ") != NULL));
}

static void check_payload(const uint8_t *data, size_t size)
{
    const struct prove_load_options opts = {.n_clients = 300, .n_topics = 7, .payload_max = 200};
    uint32_t client = 0;
    uint64_t n = 0;
    char topic[PROVE_TOPIC_LEN];
    uint8_t payload[PROVE_PAYLOAD_MAX];
    if (prove_which(&opts, data, size, &client, &n)) {
        check(client < opts.n_clients && size >= PROVE_PAYLOAD_MIN && size <= PROVE_PAYLOAD_MAX);
    }
    if (size >= 8) {
        uint64_t wanted = 0;
        memcpy(&wanted, data, 5); /* numbers of up to 40 bits are used */
        const uint32_t of = data[5] % opts.n_clients;
        const size_t len = prove_message(&opts, of, wanted, topic, payload);
        check(prove_which(&opts, payload, len, &client, &n) && client == of && n == wanted);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    if (data[0] % 2 == 0) {
        check_answer(data + 1, size - 1);
    } else {
        check_payload(data + 1, size - 1);
    }
    return 0;
}
