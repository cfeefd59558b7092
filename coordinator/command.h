/* The sub-commands of skein. Each takes its own argv (argv[0] is the sub-command's name), does its
 * whole job on the main thread and returns the exit status of the process: 0 done, 1 failed at run
 * time, 2 wrong usage. Errors were logged when they occurred. */
#pragma once

/* What a shell expects of a program that SIGINT ended: 128 + 2. */
#define EXIT_INTERRUPTED 130

/* Answers a prompt or chats; EXIT_INTERRUPTED when Ctrl-C ended a single answer. */
int command_run(int argc, char **argv);

/* Writes logits, routes and draft logits of given ids to files. */
int command_logits(int argc, char **argv);

/* Prints a model's architecture, memory split and formats. */
int command_inspect(int argc, char **argv);

/* Prints where experts would go on given machines, and how fast the model would be. */
int command_plan(int argc, char **argv);

/* Measures the machine and the model's speed on it. */
int command_bench(int argc, char **argv);

/* Measures how well the model predicts a text. */
int command_perplexity(int argc, char **argv);

/* Writes a model as a GGUF file in another precision; EXIT_INTERRUPTED after Ctrl-C. */
int command_quantize(int argc, char **argv);

/* Has a worker end without disturbing anybody. */
int command_drain(int argc, char **argv);

/* Prints the bash completion script. */
int command_completion(int argc, char **argv);
