/* The dates of a certificate out of any bytes, in DER and in PEM: no crash, and nothing is read
 * beyond their end. */
#include "mm_certificate.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct mm_certificate_period period;
    (void)mm_certificate_period(data, size, &period);
    char *text = malloc(size + 1);
    if (text == NULL) {
        abort();
    }
    memcpy(text, data, size);
    text[size] = '\0';
    (void)mm_certificate_period_pem(text, &period);
    free(text);
    return 0;
}
