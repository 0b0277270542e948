/* verify and dump: what needs the records to be read. */
#include "human.h"
#include "mm_clock.h"
#include "mm_error.h"
#include "mm_filter.h"
#include "mm_format.h"
#include "mm_json.h"
#include "mm_text.h"
#include "properties.h"
#include "spool_args.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- verify -------------------------------------------------------------------------------------
 */

struct verifying
{
    const struct spool_args *args;
    const char *log; /* the name of the one that is read */
    struct progress progress;
    uint64_t before; /* bytes of the logs that were read */
    uint64_t total;  /* of all */
};

static void on_damage(void *arg, const struct mm_inspect_damage *d)
{
    struct verifying *v = arg;
    progress_clear(&v->progress);
    spool_print_damage(v->log, d, v->args->json);
}

static void on_progress(void *arg, uint64_t done, uint64_t total)
{
    (void)total;
    struct verifying *v = arg;
    progress_show(&v->progress, v->before + done, v->total);
}

static void print_verdict(const struct verifying *v,
                          const struct mm_inspect_verdict *sum,
                          bool good,
                          uint64_t n_bad_files)
{
    if (v->args->json) {
        printf("{\"verdict\":\"%s\",\"records\":%" PRIu64 ",\"bytes\":%" PRIu64
               ",\"damages\":%" PRIu64 ",\"lost\":%" PRIu64 ",\"given_up\":%" PRIu64
               ",\"bad_files\":%" PRIu64 "}\n",
               good ? "good" : "bad", sum->n_records, sum->n_bytes, sum->n_damages, sum->n_missing,
               sum->n_given_up, n_bad_files);
        return;
    }
    char records[HUMAN_LEN];
    char bytes[HUMAN_LEN];
    char seconds[HUMAN_LEN];
    printf("%s record%s good; %s read in %s: ", human_count(sum->n_records, records),
           sum->n_records == 1 ? " is" : "s are", human_bytes(sum->n_bytes, bytes),
           human_duration((mm_clock_monotonic_ns() - v->progress.start_ns) / 1000000, seconds));
    if (sum->n_damages == 0) {
        puts(good ? "nothing is wrong" : "not all of it could be read");
    } else {
        printf("%" PRIu64 " piece%s of damage, %" PRIu64 " record%s lost as far as known\n",
               sum->n_damages, sum->n_damages == 1 ? "" : "s", sum->n_missing,
               sum->n_missing == 1 ? "" : "s");
    }
    if (sum->n_given_up > 0) {
        printf("%" PRIu64 " record%s lost earlier, and counted then\n", sum->n_given_up,
               sum->n_given_up == 1 ? " was" : "s were");
    }
    if (n_bad_files > 0) {
        printf("bad/ holds %" PRIu64 " file%s set aside earlier\n", n_bad_files,
               n_bad_files == 1 ? "" : "s");
    }
}

static void add_verdict(struct mm_inspect_verdict *sum, const struct mm_inspect_verdict *one)
{
    sum->n_records += one->n_records;
    sum->n_bytes += one->n_bytes;
    sum->n_damages += one->n_damages;
    sum->n_missing += one->n_missing;
    sum->n_given_up += one->n_given_up;
}

static uint64_t bytes_of(const struct mm_inspect *in)
{
    uint64_t n = 0;
    for (size_t i = 0; i < mm_inspect_n_segments(in); i++) {
        const struct mm_inspect_segment *seg = mm_inspect_segment(in, i);
        n += seg->seal_err == 0 ? seg->end : seg->size;
    }
    return n;
}

int spool_verify(const struct spool_args *args)
{
    struct spool_logs logs;
    bool good;
    if (!spool_open(args->dir, true, &logs, &good)) {
        return 1;
    }
    struct verifying v = {.args = args};
    struct mm_inspect_verify_options opts = {
        .on_damage = on_damage, .on_progress = on_progress, .arg = &v};
    struct mm_inspect_verdict sum = {0};
    uint64_t n_bad_files = 0;
    for (size_t i = 0; i < logs.n; i++) {
        v.total += bytes_of(logs.log[i].in);
    }
    progress_begin(&v.progress, "verify", args->progress);
    for (size_t i = 0; i < logs.n; i++) {
        struct mm_inspect_verdict one;
        v.log = logs.log[i].name;
        int err = mm_inspect_verify(logs.log[i].in, &opts, &one);
        if (err != 0) {
            fprintf(stderr, "metamorphosis: %s\n", mm_strerror(err));
            good = false;
        }
        add_verdict(&sum, &one);
        v.before += bytes_of(logs.log[i].in);
        n_bad_files += mm_inspect_info(logs.log[i].in)->n_bad_files;
    }
    progress_clear(&v.progress);
    good = good && sum.n_damages == 0;
    print_verdict(&v, &sum, good, n_bad_files);
    spool_close(&logs);
    return good ? 0 : 1;
}

/* --- dump ---------------------------------------------------------------------------------------
 */

struct dumping
{
    const struct spool_args *args;
    struct mm_inspect *in;
    struct mm_filter_set *filters; /* NULL: all topics */
    struct progress progress;
    char *base64;
    size_t base64_cap;
    uint64_t n_records;
    uint64_t n_damages;
};

/* With --json in the stream, between the records; else on standard error, which people see beside
 * the records. */
static void on_dump_damage(void *arg, const struct mm_inspect_damage *d)
{
    struct dumping *dump = arg;
    dump->n_damages++;
    progress_clear(&dump->progress);
    if (dump->args->json) {
        spool_print_damage("", d, true);
    } else {
        fprintf(stderr, "metamorphosis: %s, byte %" PRIu64 ": %s (%" PRIu64 " lost)\n",
                d->file[0] == '\0' ? mm_inspect_dir(dump->in) : d->file, d->offset, d->text,
                d->n_missing);
    }
}

static bool write_base64(struct dumping *dump, const void *data, size_t len)
{
    size_t need = 4 * ((len + 2) / 3) + 1; /* a place for nothing, too */
    if (need > dump->base64_cap) {
        char *grown = realloc(dump->base64, need);
        if (grown == NULL) {
            fprintf(stderr, "metamorphosis: %s\n", mm_strerror(MM_ENOMEM));
            return false;
        }
        dump->base64 = grown;
        dump->base64_cap = need;
    }
    putchar('"');
    fwrite(dump->base64, 1, mm_base64_encode(data, len, dump->base64), stdout);
    putchar('"');
    return true;
}

/* ,"name":"the text of the property", if there is one */
static void write_text_property(const struct mm_record *rec, uint16_t tag, const char *name)
{
    uint32_t len;
    const uint8_t *text = mm_prop_get(rec->props, rec->props_len, tag, &len);
    if (text != NULL) {
        printf(",\"%s\":", name);
        mm_json_write_string(stdout, (const char *)text, len);
    }
}

static bool print_json(struct dumping *dump, const struct mm_record *rec, const char *file)
{
    char when[HUMAN_LEN];
    uint32_t origin_len;
    const uint8_t *origin = mm_prop_get(rec->props, rec->props_len, MM_TAG_ORIGIN, &origin_len);
    printf("{\"seq\":%" PRIu64 ",\"id\":", rec->seq);
    if (origin != NULL) {
        mm_json_write_string(stdout, (const char *)origin, origin_len);
    } else {
        printf("\"%s-%" PRIu64 "\"", mm_inspect_info(dump->in)->uuid, rec->seq);
    }
    printf(",\"time\":\"%s\",\"time_ms\":%" PRIu64 ",\"mqtt_topic\":",
           human_time(rec->time_ms, when), rec->time_ms);
    mm_json_write_string(stdout, rec->topic, rec->topic_len);
    if (!mm_utf8_valid(rec->topic, rec->topic_len)) {
        fputs(",\"mqtt_topic_base64\":", stdout);
        if (!write_base64(dump, rec->topic, rec->topic_len)) {
            return false;
        }
    }
    printf(",\"qos\":%d,\"retain\":%s,\"finished\":%s,\"crc\":true,\"file\":\"%s\"",
           rec->flags & MM_RECORD_QOS_MASK, (rec->flags & MM_RECORD_RETAIN) != 0 ? "true" : "false",
           mm_inspect_finished(dump->in, rec->seq, rec->topic_hash) ? "true" : "false", file);
    write_text_property(rec, MM_TAG_KAFKA_TOPIC, "kafka_topic");
    write_text_property(rec, MM_TAG_ERROR, "error");
    write_text_property(rec, MM_TAG_REASON, "reason");
    uint64_t died_ms;
    if (mm_prop_get_u64(rec->props, rec->props_len, MM_TAG_DIED_MS, &died_ms)) {
        printf(",\"died_ms\":%" PRIu64, died_ms);
    }
    bool good = properties_write_json(stdout, rec);
    printf(",\"payload_bytes\":%" PRIu32 ",\"payload\":", rec->payload_len);
    good = write_base64(dump, rec->payload, rec->payload_len) && good;
    puts("}");
    return good;
}

static void print_line(struct dumping *dump, const struct mm_record *rec)
{
    char when[HUMAN_LEN];
    char topic[128];
    char payload[MM_PRINTABLE_LEN];
    if (dump->n_records == 0) {
        printf("%12s  %-24s  %-3s  %-4s  %s\n", "SEQ", "RECEIVED", "QOS", "DONE",
               "MQTT TOPIC, BYTES AND BEGINNING OF THE PAYLOAD");
    }
    printf("%12" PRIu64 "  %-24s  %d%-2s  %-4s  %s  %" PRIu32 "  %s\n", rec->seq,
           human_time(rec->time_ms, when), rec->flags & MM_RECORD_QOS_MASK,
           (rec->flags & MM_RECORD_RETAIN) != 0 ? "r" : "",
           mm_inspect_finished(dump->in, rec->seq, rec->topic_hash) ? "yes" : "no",
           mm_printable(rec->topic, rec->topic_len, topic, sizeof topic), rec->payload_len,
           mm_printable(rec->payload, rec->payload_len, payload, sizeof payload));
}

static bool is_wanted(const struct dumping *dump, const struct mm_record *rec)
{
    if (dump->args->pending && mm_inspect_finished(dump->in, rec->seq, rec->topic_hash)) {
        return false;
    }
    return dump->filters == NULL || mm_filter_set_match(dump->filters, rec->topic, rec->topic_len);
}

static bool dump_records(struct dumping *dump)
{
    const struct spool_args *args = dump->args;
    struct mm_inspect_reader_options opts = {.segment = MM_INSPECT_ALL,
                                             .from_seq = args->from,
                                             .to_seq = args->to,
                                             .on_damage = on_dump_damage,
                                             .arg = dump};
    struct mm_inspect_reader *rd;
    struct mm_inspect_place place;
    struct mm_record rec;
    int err = mm_inspect_reader_new(dump->in, &opts, &rd);
    bool good = true;
    mm_inspect_tell_unread(dump->in, on_dump_damage, dump);
    while (err == 0 && good && (args->limit == 0 || dump->n_records < args->limit) &&
           ferror(stdout) == 0) {
        err = mm_inspect_next(rd, &rec, &place);
        if (err != 0 || !is_wanted(dump, &rec)) {
            continue;
        }
        if (args->json) {
            good = print_json(dump, &rec, mm_inspect_segment(dump->in, place.segment)->name);
        } else {
            print_line(dump, &rec);
        }
        dump->n_records++;
        uint64_t done;
        uint64_t total;
        mm_inspect_progress(rd, &done, &total);
        progress_show(&dump->progress, done, total);
    }
    mm_inspect_reader_free(rd);
    if (err == MM_ENOMEM) {
        fprintf(stderr, "metamorphosis: %s\n", mm_strerror(err));
    }
    return good && err != MM_ENOMEM;
}

int spool_dump(const struct spool_args *args)
{
    struct dumping dump = {.args = args};
    struct spool_logs logs;
    char errstr[512];
    bool good;
    if (args->topic != NULL &&
        mm_filter_set_new(args->topic, &dump.filters, errstr, sizeof errstr) != 0) {
        fprintf(stderr, "metamorphosis: --topic: %s\n", errstr);
        return 2;
    }
    if (!spool_open(args->dir, false, &logs, &good)) {
        mm_filter_set_free(dump.filters);
        return 1;
    }
    dump.in = logs.log[0].in;
    progress_begin(&dump.progress, "dump", args->progress);
    dump.progress.on = dump.progress.on && args->progress; /* the records show it on a terminal */
    good = dump_records(&dump);
    progress_clear(&dump.progress);
    free(dump.base64);
    mm_filter_set_free(dump.filters);
    spool_close(&logs);
    return good && dump.n_damages == 0 ? 0 : 1;
}
