#include "mm_error.h"

const char *mm_strerror(int err)
{
    switch (err) {
        case 0:
            return "no error";
#define MM_ERROR_CASE(name, value, text) \
    case name:                           \
        return text;
            MM_ERRORS(MM_ERROR_CASE)
#undef MM_ERROR_CASE
        default:
            return "unknown error";
    }
}
