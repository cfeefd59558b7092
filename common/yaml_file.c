/* The tree holds copies of all text, so what was read is freed at once. */
#include "common/yaml_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/limits.h"
#include "common/log.h"

/* The caller frees *out. */
static enum status read_text(const char *path, const char *what, unsigned char **out,
                             size_t *bytes) {
    FILE *file = fopen(path, "re");
    enum status status = !file && errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO;
    if (!file) {
        log_error("cannot open %s %s: %s; check its name", what, path, strerror(errno));
        return status;
    }
    unsigned char *text = malloc(CONFIG_FILE_BYTES_MAX + 1);
    if (!text) {
        status = STATUS_NO_MEMORY;
        goto err_close;
    }
    size_t used = fread(text, 1, CONFIG_FILE_BYTES_MAX + 1, file);
    if (ferror(file)) {
        log_error("cannot read %s %s: %s; check its name", what, path, strerror(errno));
        goto err_text;
    }
    if (used > CONFIG_FILE_BYTES_MAX) {
        log_error("%s %s is over %u bytes; is it the right file?", what, path,
                  CONFIG_FILE_BYTES_MAX);
        status = STATUS_FORMAT;
        goto err_text;
    }
    fclose(file);
    *out = text;
    *bytes = used;
    return STATUS_OK;
err_text:
    free(text);
err_close:
    fclose(file);
    return status;
}

enum status yaml_file_read(const char *path, const char *what, yaml_document_t *out) {
    unsigned char *text;
    size_t bytes;
    yaml_parser_t parser;
    enum status status = read_text(path, what, &text, &bytes);
    if (status)
        return status;
    if (!yaml_parser_initialize(&parser)) {
        free(text);
        return STATUS_NO_MEMORY;
    }
    yaml_parser_set_input_string(&parser, text, bytes);
    if (!yaml_parser_load(&parser, out)) {
        log_error("%s:%zu: not valid YAML: %s", path, parser.problem_mark.line + 1,
                  parser.problem ? parser.problem : "out of memory");
        status = STATUS_FORMAT;
    }
    yaml_parser_delete(&parser);
    free(text);
    return status;
}
