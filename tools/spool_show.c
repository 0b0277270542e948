/* ls and stat: what the headers, the seals and STATE tell. */
#include "human.h"
#include "mm_clock.h"
#include "mm_error.h"
#include "mm_json.h"
#include "mm_metrics.h"
#include "mm_text.h"
#include "spool_args.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *state_name(const struct mm_inspect_segment *seg)
{
    switch (seg->state) {
        case MM_INSPECT_SEALED:
            return "sealed";
        case MM_INSPECT_OPEN:
            return "open";
        case MM_INSPECT_SPARE:
            return "spare";
        case MM_INSPECT_DAMAGED:
            break;
    }
    return "damaged";
}

/* What is wrong with it as far as one sees without reading all of it; "" when nothing. */
static const char *problem(const struct mm_inspect_segment *seg)
{
    if (seg->state == MM_INSPECT_DAMAGED) {
        switch (seg->header_err) {
            case 0:
                return "of another spool";
            case MM_EVERSION:
                return "of a newer version";
            case MM_EIO:
                return "cannot be read";
            default:
                return "no good header";
        }
    }
    if (seg->header_err != 0) {
        return "";
    }
    if (seg->n_bad_bytes > 0) {
        return "damaged records";
    }
    if (seg->seal_err == MM_ECORRUPT) {
        return "damaged seal";
    }
    return seg->n_copies < 2 ? "one copy of its header is damaged" : "";
}

/* --- ls -----------------------------------------------------------------------------------------
 */

#define ROW "%-20s  %12s  %24s  %-24s  %10s  %s%s%s\n"

static void print_row(const struct mm_inspect_segment *seg)
{
    char records[HUMAN_LEN] = "-";
    char seqs[2 * HUMAN_LEN] = "-";
    char oldest[HUMAN_LEN];
    char bytes[HUMAN_LEN];
    const char *what = problem(seg);
    if (seg->n_records > 0) {
        human_count(seg->n_records, records);
        snprintf(seqs, sizeof seqs, "%" PRIu64 "-%" PRIu64, seg->first_seq, seg->last_seq);
    }
    printf(ROW, seg->name, records, seqs, human_time(seg->first_ms, oldest),
           human_bytes(seg->size, bytes), state_name(seg), what[0] == '\0' ? "" : ": ", what);
}

static void print_segment_json(const char *log, const struct mm_inspect_segment *seg)
{
    fputs("{\"log\":", stdout);
    mm_json_write_string(stdout, log, strlen(log));
    printf(",\"file\":\"%s\",\"state\":\"%s\",\"problem\":\"%s\",\"records\":%" PRIu64
           ",\"first_seq\":%" PRIu64 ",\"last_seq\":%" PRIu64 ",\"oldest_ms\":%" PRIu64
           ",\"bytes\":%" PRIu64 ",\"bytes_on_disk\":%" PRIu64 ",\"end\":%" PRIu64
           ",\"sealed\":%s,\"run_seq\":%" PRIu64 ",\"created_ms\":%" PRIu64 "}\n",
           seg->name, state_name(seg), problem(seg), seg->n_records, seg->first_seq, seg->last_seq,
           seg->first_ms, seg->size, seg->on_disk, seg->end, seg->seal_err == 0 ? "true" : "false",
           seg->header.run_seq, seg->header.created_ms);
}

static bool list_log(const struct mm_inspect *in, const char *name, bool json)
{
    bool good = true;
    size_t n = mm_inspect_n_segments(in);
    if (!json && name[0] != '\0') {
        char shown[256];
        printf("\n%s:\n", mm_printable(name, strlen(name), shown, sizeof shown));
    }
    if (!json) {
        printf(ROW, "FILE", "RECORDS", "SEQ", "OLDEST", "BYTES", "STATE", "", "");
    }
    for (size_t i = 0; i < n; i++) {
        const struct mm_inspect_segment *seg = mm_inspect_segment(in, i);
        good = good && problem(seg)[0] == '\0';
        if (json) {
            print_segment_json(name, seg);
        } else {
            print_row(seg);
        }
    }
    return good;
}

static void print_sum(const struct spool_logs *logs)
{
    uint64_t n_segments = 0;
    uint64_t n_records = 0;
    uint64_t n_bytes = 0;
    char records[HUMAN_LEN];
    char bytes[HUMAN_LEN];
    for (size_t i = 0; i < logs->n; i++) {
        const struct mm_inspect_info *info = mm_inspect_info(logs->log[i].in);
        n_segments += mm_inspect_n_segments(logs->log[i].in);
        n_records += info->n_records;
        n_bytes += info->n_bytes;
    }
    printf("%s%" PRIu64 " segment%s, %s record%s, %s\n", logs->n > 1 ? "\n" : "", n_segments,
           n_segments == 1 ? "" : "s", human_count(n_records, records), n_records == 1 ? "" : "s",
           human_bytes(n_bytes, bytes));
}

int spool_ls(const struct spool_args *args)
{
    struct spool_logs logs;
    bool good;
    if (!spool_open(args->dir, true, &logs, &good)) {
        return 1;
    }
    for (size_t i = 0; i < logs.n; i++) {
        good = list_log(logs.log[i].in, logs.log[i].name, args->json) && good;
    }
    if (!args->json) {
        print_sum(&logs);
    }
    spool_close(&logs);
    return good ? 0 : 1;
}

/* --- stat ---------------------------------------------------------------------------------------
 */

struct slot
{
    const char *name;
    const char *reason; /* NULL: none */
    unsigned int number;
};

/* What the counters in STATE are. */
static const struct slot slots[] = {
    {"received", "qos0", MM_SLOT_RECEIVED},
    {"received", "qos1", MM_SLOT_RECEIVED + 1},
    {"received", "qos2", MM_SLOT_RECEIVED + 2},
    {"received_bytes", NULL, MM_SLOT_RECEIVED_BYTES},
    {"spooled", NULL, MM_SLOT_SPOOLED},
    {"delivered", NULL, MM_SLOT_DELIVERED},
    {"delivered_bytes", NULL, MM_SLOT_DELIVERED_BYTES},
    {"repeated", NULL, MM_SLOT_REPEATED},
#define MM_X(name, text) {"refused", text, (unsigned)MM_SLOT_REFUSED + (unsigned)(name)},
    MM_REFUSED_REASONS(MM_X)
#undef MM_X
#define MM_X(name, text) {"dropped", text, (unsigned)MM_SLOT_DROPPED + (unsigned)(name)},
        MM_DROPPED_REASONS(MM_X)
#undef MM_X
#define MM_X(name, text) {"dead_lettered", text, (unsigned)MM_SLOT_DEAD + (unsigned)(name)},
            MM_DEAD_REASONS(MM_X)
#undef MM_X
                {"parked", NULL, MM_SLOT_PARKED},
    {"retried", NULL, MM_SLOT_RETRIED},
    {"maybe_duplicated", NULL, MM_SLOT_MAYBE_DUPLICATED},
    {"kafka_errors", NULL, MM_SLOT_KAFKA_ERRORS},
    {"producer_restarts", NULL, MM_SLOT_PRODUCER_RESTARTS},
    {"test_messages", NULL, MM_SLOT_TEST_MESSAGES},
    {"dead_letter_copies", NULL, MM_SLOT_DEAD_COPIES},
    {"dead_letter_copies_failed", NULL, MM_SLOT_DEAD_COPIES_FAILED},
};

#define N_SLOTS (sizeof slots / sizeof slots[0])

/* What is known of a log beyond its files. */
struct view
{
    const struct mm_inspect_info *info;
    size_t n_segments;
    uint64_t oldest_seq; /* the first that is not finished; 0: none */
    uint64_t oldest_ms;
    uint64_t age_ms;
};

static bool take_view(struct mm_inspect *in, struct view *out)
{
    memset(out, 0, sizeof *out);
    out->info = mm_inspect_info(in);
    out->n_segments = mm_inspect_n_segments(in);
    int err = mm_inspect_oldest(in, &out->oldest_seq, &out->oldest_ms);
    out->age_ms = out->oldest_seq != 0 ? mm_clock_age_ms(out->oldest_ms) : 0;
    if (err == MM_ENOMEM) {
        fprintf(stderr, "metamorphosis: %s\n", mm_strerror(err));
    }
    return err != MM_ENOMEM;
}

/* Is anything about the files of STATE wrong? */
static const char *state_problem(const struct mm_inspect_info *info)
{
    for (int i = 0; i < 2; i++) {
        if (info->slot_err[i] == MM_EVERSION) {
            return "STATE is of a newer version";
        }
    }
    bool damaged = info->slot_err[0] == MM_ECORRUPT || info->slot_err[1] == MM_ECORRUPT;
    if (info->slot < 0 && (damaged || (info->n_records > 0 && !info->held))) {
        return "no slot of STATE is good: all records are delivered again";
    }
    return damaged ? "one slot of STATE is damaged; the other one counts" : "";
}

static void print_owner(const struct mm_inspect_info *info)
{
    char text[HUMAN_LEN];
    if (info->held) {
        printf("in use by pid %" PRId64 " (%s)\n", info->holder, info->lock_text);
    } else if (info->slot < 0) {
        printf("not in use\n");
    } else {
        printf("not in use; %s at %s\n",
               info->state.clean ? "stopped in order" : "NOT stopped in order, STATE written",
               human_time(info->state.written_ms, text));
    }
}

static void print_pending(const struct view *v)
{
    char n[HUMAN_LEN];
    char when[HUMAN_LEN];
    char age[HUMAN_LEN];
    printf("%s record%s", human_count(v->info->n_pending, n), v->info->n_pending == 1 ? "" : "s");
    if (v->oldest_seq != 0) {
        printf("; the oldest is %" PRIu64 ", received %s, %s ago", v->oldest_seq,
               human_time(v->oldest_ms, when), human_duration(v->age_ms, age));
    }
    putchar('\n');
}

static void print_ranges(const struct mm_layout_state *state)
{
    if (state->n_ranges == 1) {
        printf("  finished   all below %" PRIu64 "\n", state->ranges[0].low);
        return;
    }
    for (uint32_t i = 0; i < state->n_ranges; i++) {
        printf("  %-10s all below %" PRIu64 " of MQTT topics with hashes from %08" PRIx32 "\n",
               i == 0 ? "finished" : "", state->ranges[i].low, state->ranges[i].hash);
    }
}

static void print_main(const struct mm_inspect *in, const struct view *v)
{
    const struct mm_inspect_info *info = v->info;
    char a[HUMAN_LEN];
    char b[HUMAN_LEN];
    printf("%s\n", mm_inspect_dir(in));
    printf("  uuid       %s\n", info->uuid[0] == '\0' ? "-" : info->uuid);
    fputs("  owner      ", stdout);
    print_owner(info);
    if (state_problem(info)[0] != '\0') {
        printf("  WRONG      %s\n", state_problem(info));
    }
    fputs("  waiting    ", stdout);
    print_pending(v);
    if (info->slot >= 0) {
        print_ranges(&info->state);
        printf("  next       %" PRIu64 "\n", info->state.next_seq);
    }
    printf("  segments   %zu, with %s record%s, finished ones too; %s\n", v->n_segments,
           human_count(info->n_records, a), info->n_records == 1 ? "" : "s",
           human_bytes(info->n_bytes, b));
    if (info->n_bad_files > 0) {
        printf("  bad/       %" PRIu64 " file%s, %s\n", info->n_bad_files,
               info->n_bad_files == 1 ? "" : "s", human_bytes(info->bad_bytes, a));
    }
}

static void print_counters(const struct mm_layout_state *state)
{
    char n[HUMAN_LEN];
    printf("  counters, of all times, as in STATE\n");
    for (size_t i = 0; i < N_SLOTS; i++) {
        const struct slot *s = &slots[i];
        bool bytes = strstr(s->name, "_bytes") != NULL;
        uint64_t value = state->counters[s->number];
        if (value == 0 && s->reason != NULL) {
            continue;
        }
        char label[64];
        snprintf(label, sizeof label, "%-18s %s", s->name, s->reason == NULL ? "" : s->reason);
        printf("    %-35s %18s\n", label, bytes ? human_bytes(value, n) : human_count(value, n));
    }
}

static void print_below(const char *name, const struct view *v)
{
    char shown[256];
    char n[HUMAN_LEN];
    char bytes[HUMAN_LEN];
    char when[HUMAN_LEN];
    printf("  %-10s %s record%s, %s", mm_printable(name, strlen(name), shown, sizeof shown),
           human_count(v->info->n_pending, n), v->info->n_pending == 1 ? "" : "s",
           human_bytes(v->info->n_bytes, bytes));
    if (v->oldest_seq != 0) {
        printf("; the oldest was received %s", human_time(v->oldest_ms, when));
    }
    if (state_problem(v->info)[0] != '\0') {
        printf("; WRONG: %s", state_problem(v->info));
    }
    putchar('\n');
}

/* The members of one log's object. */
static void print_log_json(const struct mm_inspect *in, const struct view *v)
{
    const struct mm_inspect_info *info = v->info;
    const struct mm_layout_state *state = &info->state;
    fputs("\"dir\":", stdout);
    mm_json_write_string(stdout, mm_inspect_dir(in), strlen(mm_inspect_dir(in)));
    printf(",\"uuid\":\"%s\",\"in_use\":%s,\"holder\":%" PRId64 ",\"lock\":", info->uuid,
           info->held ? "true" : "false", info->holder);
    mm_json_write_string(stdout, info->lock_text, strlen(info->lock_text));
    printf(",\"problem\":\"%s\",\"pending\":%" PRIu64 ",\"oldest_seq\":%" PRIu64
           ",\"oldest_ms\":%" PRIu64 ",\"oldest_age_ms\":%" PRIu64,
           state_problem(info), info->n_pending, v->oldest_seq, v->oldest_ms, v->age_ms);
    printf(",\"segments\":%zu,\"records\":%" PRIu64 ",\"first_seq\":%" PRIu64
           ",\"last_seq\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"bad_files\":%" PRIu64
           ",\"bad_bytes\":%" PRIu64 ",\"state\":",
           v->n_segments, info->n_records, info->first_seq, info->last_seq, info->n_bytes,
           info->n_bad_files, info->bad_bytes);
    if (info->slot < 0) {
        fputs("null", stdout);
        return;
    }
    printf("{\"slot\":%d,\"generation\":%" PRIu64 ",\"written_ms\":%" PRIu64
           ",\"clean\":%s,\"next_seq\":%" PRIu64 ",\"pending\":%" PRIu64 ",\"repeat\":%" PRIu64
           ",\"ranges\":[",
           info->slot, state->generation, state->written_ms, state->clean ? "true" : "false",
           state->next_seq, state->n_pending, state->n_repeat);
    for (uint32_t i = 0; i < state->n_ranges; i++) {
        printf("%s{\"hash\":%" PRIu32 ",\"low\":%" PRIu64 "}", i == 0 ? "" : ",",
               state->ranges[i].hash, state->ranges[i].low);
    }
    fputs("]}", stdout);
}

static void print_counters_json(const struct mm_layout_state *state)
{
    fputs(",\"counters\":{", stdout);
    for (size_t i = 0; i < N_SLOTS; i++) {
        const struct slot *s = &slots[i];
        bool first = s->reason != NULL && (i == 0 || strcmp(slots[i - 1].name, s->name) != 0);
        bool last =
            s->reason != NULL && (i + 1 == N_SLOTS || strcmp(slots[i + 1].name, s->name) != 0);
        if (s->reason == NULL || first) {
            printf("%s\"%s\":%s", i == 0 ? "" : ",", s->name, first ? "{" : "");
        } else {
            putchar(',');
        }
        if (s->reason != NULL) {
            printf("\"%s\":", s->reason);
        }
        printf("%" PRIu64 "%s", state->counters[s->number], last ? "}" : "");
    }
    putchar('}');
}

static bool is_dead(const char *name)
{
    return strcmp(name, "dead") == 0;
}

/* views: one for each log. */
static void print_stat_json(const struct spool_logs *logs, const struct view *views)
{
    putchar('{');
    print_log_json(logs->log[0].in, &views[0]);
    if (views[0].info->slot >= 0) {
        print_counters_json(&views[0].info->state);
    }
    fputs(",\"parked\":[", stdout);
    bool first = true;
    for (size_t i = 1; i < logs->n && !is_dead(logs->log[i].name); i++) {
        const char *topic = logs->log[i].name + strlen("parked/");
        printf("%s{\"kafka_topic\":", first ? "" : ",");
        mm_json_write_string(stdout, topic, strlen(topic));
        putchar(',');
        print_log_json(logs->log[i].in, &views[i]);
        putchar('}');
        first = false;
    }
    fputs("],\"dead\":", stdout);
    if (logs->n > 1 && is_dead(logs->log[logs->n - 1].name)) {
        putchar('{');
        print_log_json(logs->log[logs->n - 1].in, &views[logs->n - 1]);
        putchar('}');
    } else {
        fputs("null", stdout);
    }
    puts("}");
}

static void print_stat(const struct spool_logs *logs, const struct view *views)
{
    print_main(logs->log[0].in, &views[0]);
    for (size_t i = 1; i < logs->n; i++) {
        print_below(logs->log[i].name, &views[i]);
    }
    if (views[0].info->slot >= 0) {
        print_counters(&views[0].info->state);
    }
}

int spool_stat(const struct spool_args *args)
{
    struct spool_logs logs;
    bool good;
    if (!spool_open(args->dir, true, &logs, &good)) {
        return 1;
    }
    struct view *views = calloc(logs.n, sizeof *views);
    if (views == NULL) {
        fprintf(stderr, "metamorphosis: %s\n", mm_strerror(MM_ENOMEM));
        spool_close(&logs);
        return 1;
    }
    for (size_t i = 0; i < logs.n; i++) {
        good = take_view(logs.log[i].in, &views[i]) && good;
        good = good && state_problem(views[i].info)[0] == '\0';
    }
    if (args->json) {
        print_stat_json(&logs, views);
    } else {
        print_stat(&logs, views);
    }
    free(views);
    spool_close(&logs);
    return good ? 0 : 1;
}
