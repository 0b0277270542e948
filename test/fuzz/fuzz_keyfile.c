/* Any bytes as a file with a secret, a key or certificates: judged in their bounds, a secret that
 * is taken is one line, and a file without the words of PEM is none. */
#include "../../plugin/mm_keyfile.c" /* NOLINT(bugprone-suspicious-include): what is static there */

#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void verify(bool good)
{
    if (!good) {
        abort();
    }
}

static void verify_pem(const struct content *c, enum mm_keyfile_kind kind, const char *label)
{
    char why[128] = "";
    const bool good = check(c, kind, why, sizeof why) == 0;
    verify(good == (why[0] == '\0'));
    verify(!good || (strstr(c->data, "-----BEGIN ") != NULL && strstr(c->data, label) != NULL &&
                     strstr(c->data, "-----END ") != NULL));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char why[128] = "";
    struct content c = {.data = malloc(size + 1), .len = size};
    verify(c.data != NULL);
    memcpy(c.data, data, size);
    c.data[size] = '\0';
    verify_pem(&c, MM_KEYFILE_CERTIFICATES, "CERTIFICATE-----");
    verify_pem(&c, MM_KEYFILE_KEY, "PRIVATE KEY-----");
    if (check(&c, MM_KEYFILE_SECRET, why, sizeof why) == 0) {
        const size_t len = strcspn(c.data, "\r\n");
        verify(len > 0 && len < MM_SECRET_LEN && size - len <= 2);
        verify(strcmp(c.data + len, "") == 0 || strcmp(c.data + len, "\n") == 0 ||
               strcmp(c.data + len, "\r") == 0 || strcmp(c.data + len, "\r\n") == 0);
    } else {
        verify(why[0] != '\0');
    }
    wipe(&c);
    return 0;
}
