#include "mm_page.h"

#include "mm_page_data.h"

#include <string.h>

static const struct mm_page pages[] = {
    {"/", "text/html; charset=utf-8", mm_page_html, sizeof mm_page_html},
    {"/page.css", "text/css; charset=utf-8", mm_page_css, sizeof mm_page_css},
    {"/page.js", "text/javascript; charset=utf-8", mm_page_js, sizeof mm_page_js},
    {"/page.svg", "image/svg+xml", mm_page_svg, sizeof mm_page_svg},
};

const struct mm_page *mm_page_find(const char *path)
{
    for (size_t i = 0; i < sizeof pages / sizeof pages[0]; i++) {
        if (strcmp(path, pages[i].path) == 0) {
            return &pages[i];
        }
    }
    return NULL;
}
