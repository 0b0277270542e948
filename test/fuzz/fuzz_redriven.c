/* Any bytes as the file "redriven": the ids of its whole lines are taken, and no others; when it is
 * to be written, what stands behind the last whole line is cut off, and nothing else. */
#include "../../tools/redriven.c" /* NOLINT(bugprone-suspicious-include): what is static there */

#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool good)
{
    if (!good) {
        abort();
    }
}

/* The ids, by the description in redriven.h. Returns the length of the whole lines. */
static size_t expect(const struct redriven *r, const char *text, size_t len)
{
    size_t n_ids = 0;
    size_t start = 0;
    struct idset seen = {0};
    for (size_t i = 0; i < len; i++) {
        if (text[i] != '\n') {
            continue;
        }
        const size_t id_len = i - start;
        bool is_id = id_len > 0 && id_len <= IDSET_ID_MAX;
        for (size_t k = start; k < i; k++) {
            is_id = is_id && text[k] != '\0' && strchr("0123456789abcdef-", text[k]) != NULL;
        }
        check(is_id == idset_is_id(text + start, id_len));
        check(!is_id || redriven_has(r, text + start, id_len));
        n_ids += is_id && !idset_has(&seen, text + start, id_len);
        check(!is_id || idset_add(&seen, text + start, id_len));
        start = i + 1;
    }
    check(n_ids == r->ids.n_ids);
    idset_fini(&seen);
    return start;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int file = -1;
    if (file < 0) {
        file = memfd_create("redriven", MFD_CLOEXEC);
        check(file >= 0);
    }
    check(ftruncate(file, (off_t)size) == 0);
    check(pwrite(file, data, size, 0) == (ssize_t)size);
    struct redriven r = {.path = "redriven", .fd = size % 2 == 0 ? file : -1};
    check(read_ids(&r, file));
    const size_t whole = expect(&r, (const char *)data, size);
    struct stat st;
    check(fstat(file, &st) == 0);
    check((size_t)st.st_size == (r.fd >= 0 ? whole : size));
    idset_fini(&r.ids);
    return 0;
}
