#include "findings.h"

#include "mm_json.h"
#include "mm_text.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

const struct mm_place findings_nowhere = {NULL, 0};

void findings_rename(struct findings *f, const char *path, const char *as_given)
{
    f->path = path;
    f->as_given = as_given;
}

/* Put our own copy of its file's name into a place. */
static bool own_file(struct findings *f, struct mm_place *place)
{
    if (f->path != NULL && strcmp(f->path, place->file) == 0) {
        place->file = f->as_given;
    }
    for (size_t i = 0; i < f->n_files; i++) {
        if (strcmp(f->files[i], place->file) == 0) {
            place->file = f->files[i];
            return true;
        }
    }
    char **files = realloc(f->files, (f->n_files + 1) * sizeof *files);
    if (files == NULL) {
        return false;
    }
    f->files = files;
    files[f->n_files] = strdup(place->file);
    place->file = files[f->n_files];
    f->n_files += place->file != NULL;
    return place->file != NULL;
}

static void append(struct findings *f,
                   enum mm_log_level level,
                   struct mm_place place,
                   const char *text)
{
    f->n_errors += level == MM_LOG_ERROR;
    f->n_warnings += level == MM_LOG_WARN;
    if ((f->n & (f->n - 1)) == 0) {
        struct found *items = realloc(f->items, (f->n > 0 ? 2 * f->n : 1) * sizeof *items);
        if (items == NULL) {
            f->incomplete = true;
            return;
        }
        f->items = items;
    }
    if (place.file != NULL && !own_file(f, &place)) {
        f->incomplete = true;
        return;
    }
    const size_t room = strlen(text) + 4;
    char *shown = malloc(room);
    if (shown == NULL) {
        f->incomplete = true;
        return;
    }
    mm_printable(text, strlen(text), shown, room);
    f->items[f->n++] = (struct found){.level = level, .place = place, .text = shown};
}

void findings_add(struct findings *f,
                  enum mm_log_level level,
                  struct mm_place place,
                  const char *fmt,
                  ...)
{
    char text[2 * MM_LOG_LINE_LEN] = "";
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    append(f, level, place, text);
}

void findings_report(void *arg, const struct mm_finding *finding)
{
    append(arg, finding->level, finding->place, finding->text);
}

/* The number of its file; without a place behind all. */
static size_t rank_of(const struct findings *f, const struct found *item)
{
    size_t i = 0;
    while (item->place.file != NULL && f->files[i] != item->place.file) {
        i++;
    }
    return item->place.file != NULL ? i : f->n_files;
}

struct key
{
    size_t rank;
    size_t index;
    struct found item;
};

static int compare(const void *left, const void *right)
{
    const struct key *a = left;
    const struct key *b = right;
    if (a->rank != b->rank) {
        return a->rank < b->rank ? -1 : 1;
    }
    if (a->item.place.line != b->item.place.line) {
        return a->item.place.line < b->item.place.line ? -1 : 1;
    }
    return a->index < b->index ? -1 : 1;
}

void findings_sort(struct findings *f)
{
    struct key *keys = calloc(f->n + 1, sizeof *keys);
    if (keys == NULL) {
        return; /* they are told in another order */
    }
    for (size_t i = 0; i < f->n; i++) {
        keys[i] = (struct key){.rank = rank_of(f, &f->items[i]), .index = i, .item = f->items[i]};
    }
    qsort(keys, f->n, sizeof *keys, compare);
    for (size_t i = 0; i < f->n; i++) {
        f->items[i] = keys[i].item;
    }
    free(keys);
}

static const char *level_word(enum mm_log_level level)
{
    return level == MM_LOG_ERROR ? "error" : level == MM_LOG_WARN ? "warning" : "note";
}

void findings_print(const struct findings *f, FILE *out)
{
    for (size_t i = 0; i < f->n; i++) {
        const struct found *item = &f->items[i];
        if (item->place.file != NULL) {
            fprintf(out, "%s:", item->place.file);
        }
        if (item->place.file != NULL && item->place.line > 0) {
            fprintf(out, "%u:", item->place.line);
        }
        fprintf(out, "%s%s: %s\n", item->place.file != NULL ? " " : "", level_word(item->level),
                item->text);
    }
}

void findings_print_json(const struct findings *f, FILE *out)
{
    fputc('[', out);
    for (size_t i = 0; i < f->n; i++) {
        const struct found *item = &f->items[i];
        fprintf(out, "%s{\"level\":\"%s\",\"file\":", i > 0 ? "," : "", level_word(item->level));
        if (item->place.file != NULL) {
            mm_json_write_string(out, item->place.file, strlen(item->place.file));
        } else {
            fputs("null", out);
        }
        if (item->place.file != NULL && item->place.line > 0) {
            fprintf(out, ",\"line\":%u,\"text\":", item->place.line);
        } else {
            fputs(",\"line\":null,\"text\":", out);
        }
        mm_json_write_string(out, item->text, strlen(item->text));
        fputc('}', out);
    }
    fputc(']', out);
}

void findings_free(struct findings *f)
{
    for (size_t i = 0; i < f->n; i++) {
        free(f->items[i].text);
    }
    free(f->items);
    for (size_t i = 0; i < f->n_files; i++) {
        free(f->files[i]);
    }
    free(f->files);
    *f = (struct findings){0};
}
