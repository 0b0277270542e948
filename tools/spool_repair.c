/* repair: what mm_repair() does, and a verification behind it. */
#include "mm_error.h"
#include "mm_json.h"
#include "mm_repair.h"
#include "spool_args.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct repairing
{
    const struct spool_args *args;
    const char *log;
    uint64_t n_actions;
    uint64_t n_failed;
};

static void on_action(void *arg, const char *file, const char *what, int err)
{
    const struct repairing *r = arg;
    char reason[64] = "";
    const char *why = err == 0 ? "" : strerror_r(errno, reason, sizeof reason);
    if (r->args->json) {
        fputs("{\"action\":", stdout);
        mm_json_write_string(stdout, what, strlen(what));
        fputs(",\"log\":", stdout);
        mm_json_write_string(stdout, r->log, strlen(r->log));
        fputs(",\"file\":", stdout);
        mm_json_write_string(stdout, file, strlen(file));
        printf(",\"done\":%s}\n", err == 0 && !r->args->dry_run ? "true" : "false");
        return;
    }
    printf("%s%s%s%s: %s%s%s\n", r->args->dry_run ? "would mend " : "", r->log,
           r->log[0] == '\0' ? "" : "/", file, what, err == 0 ? "" : ": FAILED: ", why);
}

/* What is made must belong to the user that the broker runs as. */
static bool become_owner(const char *dir)
{
    struct stat st;
    if (geteuid() != 0 || stat(dir, &st) != 0 || st.st_uid == 0) {
        return true;
    }
    if (setegid(st.st_gid) == 0 && seteuid(st.st_uid) == 0) {
        return true;
    }
    fprintf(stderr, "metamorphosis: \"%s\": cannot act as its owner, user %u: %s\n", dir,
            (unsigned)st.st_uid, strerror(errno));
    return false;
}

static bool repair_log(struct repairing *r, const char *name)
{
    struct mm_repair_options opts = {
        .dry_run = r->args->dry_run, .rewrite = r->args->rewrite, .on_action = on_action, .arg = r};
    struct mm_repair_result result;
    char errstr[512];
    char *path;
    if (asprintf(&path, "%s%s%s", r->args->dir, name[0] == '\0' ? "" : "/", name) < 0) {
        fprintf(stderr, "metamorphosis: %s\n", mm_strerror(MM_ENOMEM));
        return false;
    }
    r->log = name;
    int err = mm_repair(path, &opts, &result, errstr, sizeof errstr);
    free(path);
    r->n_actions += result.n_actions;
    r->n_failed += result.n_failed;
    if (err != 0) {
        fprintf(stderr, "metamorphosis: %s\n", errstr);
    }
    return err == 0;
}

static void summarise(const struct repairing *r, bool good)
{
    if (r->args->json) {
        return;
    }
    if (r->n_actions == 0) {
        puts(good ? "there is nothing to mend" : "nothing was mended");
    } else {
        printf("%" PRIu64 " %s%s\n", r->n_actions - r->n_failed,
               r->args->dry_run ? "would be mended" : "mended", r->n_failed > 0 ? ", " : "");
    }
    if (r->n_failed > 0) {
        printf("%" PRIu64 " could not be\n", r->n_failed);
    }
}

int spool_repair(const struct spool_args *args)
{
    struct repairing r = {.args = args, .log = ""};
    char **logs = NULL;
    size_t n_logs = 0;
    if (!become_owner(args->dir)) {
        return 1;
    }
    /* The spool's own log first: when a broker has it, nothing below is touched. */
    bool good = repair_log(&r, "");
    if (good && mm_inspect_list_logs(args->dir, &logs, &n_logs) != 0) {
        fprintf(stderr, "metamorphosis: \"%s\": what is below cannot be listed\n", args->dir);
        good = false;
    }
    for (size_t i = 0; good && i < n_logs; i++) {
        good = repair_log(&r, logs[i]) && good;
    }
    free(logs);
    summarise(&r, good);
    if (!good || r.n_failed > 0) {
        return 1;
    }
    if (args->dry_run) {
        return r.n_actions > 0 ? 1 : 0;
    }
    int result = spool_verify(args);
    if (result != 0 && !args->rewrite && !args->json) {
        puts(
            "--rewrite copies the good records of segments with damaged ones; what is in no "
            "segment "
            "cannot be brought back");
    }
    return result;
}
