/* Options, the export, and one line that says what it came to. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/kernel/kernel.h"
#include "common/log.h"
#include "common/threads.h"
#include "coordinator/command.h"
#include "coordinator/export.h"
#include "coordinator/interrupt.h"
#include "coordinator/options.h"

static enum status print_figures(const struct quantize_options *options,
                                 const struct export_figures *figures) {
    char in[CONFIG_SIZE_TEXT], out[CONFIG_SIZE_TEXT];
    if (options->quiet)
        return STATUS_OK;
    printf("%s: %s from %s, %.2f bits for each weight\n", options->out,
           config_format_size(figures->out_bytes, out), config_format_size(figures->in_bytes, in),
           8 * (double)figures->out_bytes / (double)figures->values);
    if (fflush(stdout) == 0 && !ferror(stdout))
        return STATUS_OK;
    log_error("cannot write to standard output: %s", strerror(errno));
    return STATUS_IO;
}

static enum status quantize(const struct quantize_options *options) {
    struct export_figures figures;
    struct threads *threads;
    enum status status = kernel_select("auto");
    if (status == STATUS_OK)
        status = threads_create(options->threads, &threads);
    if (status != STATUS_OK)
        return status;
    struct export_options exported = {.in = options->in,
                                      .out = options->out,
                                      .recipe = recipe_find(options->type),
                                      .threads = threads,
                                      .show_progress = !options->quiet && isatty(STDERR_FILENO)};
    interrupt_arm();
    status = export_model(&exported, &figures);
    interrupt_disarm();
    threads_destroy(threads);
    return status == STATUS_OK ? print_figures(options, &figures) : status;
}

int command_quantize(int argc, char **argv) {
    struct quantize_options options;
    struct option_table table;
    struct config *config = config_create();
    if (!config)
        return status_exit_code(STATUS_NO_MEMORY);
    options_describe_quantize(&options, &table);
    bool done;
    enum status status = config_parse_arguments(config, &table.command, argc, argv, &done);
    if (status == STATUS_OK && !done)
        status = options_check_quantize(&options);
    if (status == STATUS_OK && !done) {
        options_set_log(
            &(struct model_options){.verbose = options.verbose, .quiet = options.quiet});
        status = quantize(&options);
    }
    config_destroy(config);
    return status == STATUS_CANCELLED ? EXIT_INTERRUPTED : status_exit_code(status);
}
