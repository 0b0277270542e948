/* What an error of Kafka, or of its client, means for the message. */
#include "mm_kafka_impl.h"

/* KIP-467, known to librdkafka since 2.4.0: another message of the batch is the culprit. */
#define ERR_INVALID_DIFFERENT_RECORD ((rd_kafka_resp_err_t)-138)

/* Not in the table: MM_KAFKA_WAIT. "Permanent" is the client's word: most such errors end when an
 * operator acts, and only the few SUSPECT ones can mean that the message itself will never do. */
static const struct
{
    rd_kafka_resp_err_t err;
    enum mm_kafka_class class;
} classes[] = {
    {RD_KAFKA_RESP_ERR_NO_ERROR, MM_KAFKA_DELIVERED},

    {RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, MM_KAFKA_SUSPECT},
    {RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE, MM_KAFKA_SUSPECT},
    {RD_KAFKA_RESP_ERR_INVALID_MSG, MM_KAFKA_SUSPECT},
    {RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE, MM_KAFKA_SUSPECT},
    {RD_KAFKA_RESP_ERR_INVALID_RECORD, MM_KAFKA_SUSPECT},
    {ERR_INVALID_DIFFERENT_RECORD, MM_KAFKA_SUSPECT},
    {RD_KAFKA_RESP_ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT, MM_KAFKA_SUSPECT},
    {RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION, MM_KAFKA_SUSPECT},

    /* We or a fatal error took it back. */
    {RD_KAFKA_RESP_ERR__PURGE_QUEUE, MM_KAFKA_AGAIN},
    {RD_KAFKA_RESP_ERR__PURGE_INFLIGHT, MM_KAFKA_AGAIN},
    {RD_KAFKA_RESP_ERR__FATAL, MM_KAFKA_AGAIN},
    {RD_KAFKA_RESP_ERR__GAPLESS_GUARANTEE, MM_KAFKA_AGAIN},
    {RD_KAFKA_RESP_ERR__DESTROY, MM_KAFKA_AGAIN},
    {RD_KAFKA_RESP_ERR__MSG_TIMED_OUT, MM_KAFKA_AGAIN},

    /* The producer is at fault, not the message nor the topic: a new producer mends it. */
    {RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER, MM_KAFKA_AGAIN},
    {RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID, MM_KAFKA_AGAIN},
    {RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH, MM_KAFKA_AGAIN},
    {RD_KAFKA_RESP_ERR_PRODUCER_FENCED, MM_KAFKA_AGAIN},
    {RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER, MM_KAFKA_AGAIN},
};

/* Errors that somebody can mend and that tell nothing of the one topic. What is not listed may be
 * the topic's. */
static const rd_kafka_resp_err_t general[] = {
    RD_KAFKA_RESP_ERR__TRANSPORT,
    RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN,
    RD_KAFKA_RESP_ERR__TIMED_OUT,
    RD_KAFKA_RESP_ERR__RESOLVE,
    RD_KAFKA_RESP_ERR__AUTHENTICATION,
    RD_KAFKA_RESP_ERR__SSL,
    RD_KAFKA_RESP_ERR_NETWORK_EXCEPTION,
    RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
    RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED,
    RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED,
    RD_KAFKA_RESP_ERR_UNSUPPORTED_SASL_MECHANISM,
    RD_KAFKA_RESP_ERR_ILLEGAL_SASL_STATE,
    RD_KAFKA_RESP_ERR_SECURITY_DISABLED,
    RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION,
    RD_KAFKA_RESP_ERR_INVALID_REQUIRED_ACKS,
    RD_KAFKA_RESP_ERR_INVALID_REQUEST,
    RD_KAFKA_RESP_ERR_THROTTLING_QUOTA_EXCEEDED,
};

static bool is_general(rd_kafka_resp_err_t err)
{
    for (size_t i = 0; i < sizeof general / sizeof general[0]; i++) {
        if (general[i] == err) {
            return true;
        }
    }
    return false;
}

static enum mm_kafka_class classify(rd_kafka_resp_err_t err)
{
    for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++) {
        if (classes[i].err == err) {
            return classes[i].class;
        }
    }
    return MM_KAFKA_WAIT;
}

void mm_kafka_fill_report(struct mm_kafka_report *report, rd_kafka_resp_err_t err, void *tag)
{
    *report = (struct mm_kafka_report){
        .tag = tag,
        .class = classify(err),
        .too_large = err == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE ||
                     err == RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE,
        .wrong_time = err == RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP,
        .general = is_general(err),
        .error = rd_kafka_err2name(err),
        .reason = rd_kafka_err2str(err),
    };
}
