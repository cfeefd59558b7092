/* The binary skein-worker: options, signals, one daemon.
 *
 * Standard output carries exactly one line, "listening HOST:PORT", by which whoever started the
 * worker learns the port; everything else goes to the log on standard error. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "common/config.h"
#include "common/kernel/kernel.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/transport/transport.h"
#include "worker/daemon.h"
#include "worker/notify.h"
#include "worker/shard_cache.h"

struct settings {
    struct daemon_options daemon;
    uint32_t threads;
    const char *isa;
    const char *config_path;
    bool verbose, quiet, version;
};

static const char DETAILS[] =
    "The worker serves one coordinator after another and keeps its experts between them. Without\n"
    "--model the coordinator, or other workers, send the experts over the network.\n"
    "\n"
    "Examples:\n"
    "  skein-worker --listen 127.0.0.1:7717 --memory 8G\n"
    "  skein-worker --listen 0.0.0.0:7717 --insecure --model /models/deepseek-v2-lite\n";

/* Each adds some options to a list, and returns how many. */
static size_t list_store_options(struct settings *settings, struct option *out) {
    const struct option options[] = {
        {.name = "listen",
         .type = OPTION_STRING,
         .target = &settings->daemon.listen,
         .argument = "HOST:PORT",
         .help = "Address to listen on; port 0 takes any free one."},
        {.name = "threads",
         .letter = 't',
         .type = OPTION_COUNT,
         .target = &settings->threads,
         .argument = "N",
         .minimum = 0,
         .maximum = THREADS_MAX,
         .help = "Threads to compute with; 0 takes one for each core."},
        {.name = "memory",
         .type = OPTION_SIZE,
         .target = &settings->daemon.memory_bytes,
         .argument = "SIZE",
         .help = "Most memory for experts; 0 takes nine tenths of what is available."},
        {.name = "model",
         .letter = 'm',
         .type = OPTION_PATH,
         .target = &settings->daemon.model,
         .argument = "PATH",
         .help = "This machine's copy of the model, to read experts from."},
        {.name = "cache",
         .type = OPTION_PATH,
         .target = &settings->daemon.cache,
         .argument = "DIR",
         .help = "Where measured figures of this machine and experts that were sent to it are "
                 "kept; without it ~/.cache/skein, or what systemd gives the service."},
        {.name = "cache-size",
         .type = OPTION_SIZE,
         .target = &settings->daemon.cache_bytes_max,
         .argument = "SIZE",
         .help = "Most disk for experts that were sent, without it all but a tenth; 0 keeps none."},
        {.name = "spill",
         .type = OPTION_SIZE,
         .target = &settings->daemon.spill_bytes,
         .argument = "SIZE",
         .help = "Most experts that may lie in that directory instead of in memory, the least used "
                 "ones, and are read when they are needed; without it none."},
    };
    memcpy(out, options, sizeof options);
    return sizeof options / sizeof *options;
}

static size_t list_program_options(struct settings *settings, struct option *out) {
    const struct option options[] = {
        {.name = "isa",
         .type = OPTION_CHOICE,
         .target = &settings->isa,
         .argument = "NAME",
         .choices = KERNEL_CHOICES,
         .help = "Instruction set to compute with."},
        {.name = "transport",
         .type = OPTION_CHOICE,
         .target = &settings->daemon.transport,
         .argument = "NAME",
         .choices = TRANSPORT_CHOICES,
         .help = "How frames travel and shards are read from the disk; auto takes io_uring where "
                 "the system allows it."},
        {.name = "config",
         .type = OPTION_PATH,
         .target = &settings->config_path,
         .argument = "FILE.yaml",
         .help = "File with these options by name."},
        {.name = "insecure",
         .type = OPTION_FLAG,
         .target = &settings->daemon.insecure,
         .help = "Allow addresses that other machines can reach, although nothing is encrypted."},
        {.name = "verbose",
         .letter = 'v',
         .type = OPTION_FLAG,
         .target = &settings->verbose,
         .help = "Log every step."},
        {.name = "quiet",
         .letter = 'q',
         .type = OPTION_FLAG,
         .target = &settings->quiet,
         .help = "Log warnings and errors only."},
        {.name = "version",
         .type = OPTION_FLAG,
         .target = &settings->version,
         .help = "Print the version and exit."},
    };
    memcpy(out, options, sizeof options);
    return sizeof options / sizeof *options;
}

/* Fills `settings`; *done when help or version was all that was wanted. */
static enum status read_settings(struct config *config, int argc, char **argv,
                                 struct settings *settings, bool *done) {
    struct option options[OPTIONS_MAX];
    size_t count = list_store_options(settings, options);
    count += list_program_options(settings, options + count);
    const struct command command = {.name = "skein-worker",
                                    .summary = "Serve experts to a coordinator",
                                    .usage = "[options]",
                                    .details = DETAILS,
                                    .options = options,
                                    .option_count = count};
    enum status status = config_parse_arguments(config, &command, argc, argv, done);
    if (!status && !*done && settings->config_path)
        status = config_parse_file(config, &command, settings->config_path);
    return status;
}

static enum status serve(const struct settings *settings) {
    enum status status = kernel_select(settings->isa);
    if (status)
        return status;
    struct daemon *daemon;
    status = daemon_create(&settings->daemon, &daemon);
    if (status)
        return status;
    printf("listening %s\n", daemon_address(daemon));
    fflush(stdout);
    notify_ready();
    daemon_run(daemon);
    daemon_destroy(daemon);
    return STATUS_OK;
}

int main(int argc, char **argv) {
    struct settings settings = {.daemon = {.listen = "127.0.0.1:7717",
                                           .transport = "auto",
                                           .cache_bytes_max = SHARD_CACHE_AUTO,
                                           .handle_signals = true},
                                .isa = "auto"};
    bool done = false;
    log_init("skein-worker", LOG_INFO, NULL);
    log_set_journal(config_logs_to_journal());
    signal(SIGPIPE, SIG_IGN);
    struct config *config = config_create();
    enum status status =
        config ? read_settings(config, argc, argv, &settings, &done) : STATUS_NO_MEMORY;
    if (!status && !done && settings.version) {
        printf("skein-worker %s\n", SKEIN_VERSION);
        done = true;
    }
    settings.daemon.threads = settings.threads;
    if (!status && !settings.daemon.cache)
        settings.daemon.cache = config_cache_directory(config, "skein");
    if (settings.verbose || settings.quiet)
        log_init("skein-worker", settings.verbose ? LOG_DEBUG : LOG_WARNING, NULL);
    if (!status && !done)
        status = serve(&settings);
    config_destroy(config);
    return status_exit_code(status);
}
