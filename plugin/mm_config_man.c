/* The manual page of the plugin, mosquitto_metamorphosis(7), made from the option table. */
#include "mm_config.h"

#include "mm_error.h"
#include "mm_log.h"
#include "mm_options.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* The code point that a well-formed UTF-8 sequence begins with; *len is its length. */
static uint32_t decode(const char *text, size_t *len)
{
    static const unsigned char masks[] = {0x7f, 0x1f, 0x0f, 0x07};
    unsigned char first = (unsigned char)*text;
    size_t more = first < 0x80 ? 0 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3;
    uint32_t code = first & masks[more];
    *len = 1;
    while (*len <= more && ((unsigned char)text[*len] & 0xc0) == 0x80) {
        code = code << 6 | ((unsigned char)text[*len] & 0x3f);
        (*len)++;
    }
    return code;
}

/* One character as roff shows it: none of its own marks, and ASCII. Returns the bytes taken. */
static size_t put_character(FILE *stream, const char *text)
{
    size_t len;
    uint32_t code = decode(text, &len);
    switch (code) {
        case '\\':
            fputs("\\e", stream);
            break;
        case '-':
            fputs("\\-", stream);
            break;
        case '\'':
            fputs("\\(aq", stream);
            break;
        case '~':
            fputs("\\(ti", stream);
            break;
        case '^':
            fputs("\\(ha", stream);
            break;
        default:
            if (code < 0x80) {
                fputc((int)code, stream);
            } else {
                fprintf(stream, "\\[u%04X]", (unsigned)code);
            }
    }
    return len;
}

/* The place behind a Markdown link's address, if its text ends here ("](address)"); else NULL. */
static const char *link_end(const char *text)
{
    const char *end = strncmp(text, "](", 2) == 0 ? strchr(text, ')') : NULL;
    return end != NULL ? end + 1 : NULL;
}

static bool begins_link(const char *text)
{
    const char *end = *text == '[' ? strchr(text, ']') : NULL;
    return end != NULL && link_end(end) != NULL;
}

/* The place behind " ([text](address))", which says nothing where it leads nowhere; else NULL. */
static const char *aside_end(const char *text)
{
    if (strncmp(text, " ([", 3) != 0 || !begins_link(text + 2)) {
        return NULL;
    }
    const char *end = link_end(strchr(text, ']'));
    return *end == ')' ? end + 1 : NULL;
}

/* A text of the table, which is Markdown: `code` becomes bold, of a link its text is left. The
 * caller has begun the line with something else, or with \&, so that it is no request. */
static void put_markdown(FILE *stream, const char *text)
{
    bool bold = false;
    while (*text != '\0') {
        const char *behind = aside_end(text);
        behind = behind != NULL ? behind : link_end(text);
        if (*text == '`') {
            bold = !bold;
            fputs(bold ? "\\fB" : "\\fR", stream);
            text++;
        } else if (behind != NULL) {
            text = behind;
        } else if (begins_link(text)) {
            text++;
        } else {
            text += put_character(stream, text);
        }
    }
}

static void put_plain(FILE *stream, const char *text)
{
    while (*text != '\0') {
        text += put_character(stream, text);
    }
}

static void put_option(FILE *stream, const struct mm_option_def *def)
{
    char variable[MM_OPTION_NAME_LEN];
    char expected[MM_LOG_LINE_LEN];
    mm_option_expected(def, expected, sizeof expected);
    fprintf(stream, ".TP\n.B %s\n\\&", def->name);
    put_markdown(stream, def->meaning);
    fprintf(stream, "%s\n.br\nValues: ", def->fixed ? " Counts from a start on." : "");
    put_plain(stream, expected);
    fputs(". Default: ", stream);
    put_plain(stream, def->fallback != NULL ? def->fallback : "not set");
    if (def->fallback_on_disk != NULL) {
        fputs(", or ", stream);
        put_plain(stream, def->fallback_on_disk);
        fputs(" when spool_dir is set", stream);
    }
    fprintf(stream, ". Environment: %s.\n", mm_option_variable(def, variable));
}

static const char head[] =
    ".\\\" Made from the option table in plugin/mm_options.c; do not edit.\n"
    ".TH MOSQUITTO_METAMORPHOSIS 7 \"\" Metamorphosis\n"
    ".SH NAME\n"
    "mosquitto_metamorphosis \\- a plugin of Mosquitto that carries MQTT messages to Apache Kafka\n"
    ".SH SYNOPSIS\n"
    ".nf\n"
    "plugin /path/to/mosquitto_metamorphosis.so\n"
    "plugin_opt_kafka_broker kafka\\-1:9092,kafka\\-2:9092\n"
    "plugin_opt_kafka_topic mqtt\n"
    "plugin_opt_spool_dir /var/lib/mosquitto/metamorphosis\n"
    ".fi\n"
    ".SH DESCRIPTION\n"
    "The plugin writes what MQTT clients publish to Apache Kafka. A QoS 1 or 2 message that was\n"
    "acknowledged reaches Kafka at least once, and in order for each MQTT topic. While Kafka is\n"
    "away, messages wait in the spool: in files, which outlive the broker, when\n"
    ".B spool_dir\n"
    "is set, and in memory, which does not, when it is not. When the spool is full, QoS 1 and 2\n"
    "messages are refused, and so stay with their publisher.\n"
    ".PP\n"
    "An option stands in\n"
    ".BR mosquitto.conf (5)\n"
    "as\n"
    ".BI plugin_opt_ \"option value\"\n"
    "below the plugin line, or in the file that\n"
    ".B config_file\n"
    "names, one a line and without\n"
    ".BR plugin_opt_ .\n"
    "Without it the environment variable counts, unless that is empty; without all of them, the\n"
    "default. An option that is unknown, given twice (but\n"
    ".BR route )\n"
    "or not valid keeps the broker from starting; all of them are reported.\n"
    ".B metamorphosis check\\-config\n"
    "finds the same before the start.\n"
    ".SH OPTIONS\n";

static const char tail[] =
    ".TP\n"
    ".BI rdkafka. property\n"
    "Any other property of librdkafka, under its own name, but those on which the promise rests.\n"
    "Not from the environment.\n"
    ".SH SIGNALS\n"
    ".TP\n"
    ".B SIGHUP\n"
    "The file of\n"
    ".B config_file\n"
    "is read again, and counts from then on, but for what counts from a start on. What is wrong "
    "in\n"
    "it changes nothing, and is told in the log.\n"
    ".TP\n"
    ".B SIGTERM\n"
    "Delivery goes on for up to 5 seconds. What is left stays in the files of the spool.\n"
    ".SH FILES\n"
    ".TP\n"
    ".I /etc/mosquitto/conf.d/metamorphosis.conf\n"
    "With the package of Debian: the configuration, all of it commented out until it is edited.\n"
    ".TP\n"
    ".I /var/lib/mosquitto/metamorphosis\n"
    "With the package of Debian: a directory for the spool.\n"
    ".SH SEE ALSO\n"
    ".BR metamorphosis (1),\n"
    ".BR mosquitto.conf (5),\n"
    ".BR mosquitto (8)\n"
    ".PP\n"
    "README.md and docs/ in /usr/share/doc/metamorphosis tell the rest: what is promised, how "
    "large\n"
    "the spool has to be, what each line of the log means, and what to do when.\n";

int mm_config_write_man(FILE *stream)
{
    fputs(head, stream);
    for (size_t i = 0; i < MM_N_OPTIONS; i++) {
        if (mm_option_defs[i].kind == MM_OPTION_SETTING) {
            put_option(stream, &mm_option_defs[i]);
        }
    }
    fputs(tail, stream);
    return fflush(stream) == 0 && !ferror(stream) ? 0 : MM_EINVAL;
}
