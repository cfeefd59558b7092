/* The script is made from the same tables that parse the options, so it cannot lag behind them. */
#include <stdlib.h>

#include "common/log.h"
#include "coordinator/command.h"
#include "coordinator/options.h"

int command_completion(int argc, char **argv) {
    enum status status = STATUS_NO_MEMORY;
    bool done = false;
    struct config *config = config_create();
    struct option_catalogue *catalogue = calloc(1, sizeof *catalogue);
    if (config && catalogue) {
        options_describe_all(catalogue);
        status = config_parse_arguments(config, catalogue->commands[OPTION_TABLES - 1], argc, argv,
                                        &done);
    }
    if (status == STATUS_OK && !done)
        config_print_completion(catalogue->commands, OPTION_TABLES, "skein", stdout);
    if (status == STATUS_OK && fflush(stdout)) {
        log_error("cannot write the completion script to standard output");
        status = STATUS_IO;
    }
    free(catalogue);
    config_destroy(config);
    return status_exit_code(status);
}
