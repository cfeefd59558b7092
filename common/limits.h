/* Every bound of the program in one place, each with the arithmetic behind it. Bounds are checked
 * before memory is taken, so that no file and no peer can ask for more. */
#pragma once

/* A log line: a path (4096 would be the system's bound; real ones stay under 512) and a sentence.
 */
#define LOG_LINE_BYTES_MAX 1024

/* What a worker says of itself to the service manager: a sentence with the name of a peer. */
#define NOTIFY_STATUS_BYTES_MAX 256

/* Threads of one pool: two sockets of 128 cores with two threads each. */
#define THREADS_MAX 512

/* Bytes or multiply-accumulates of one machine in a second, as a file or a peer may claim them: the
 * largest servers multiply 1e14 times. */
#define MACHINE_RATE_MAX 1e18
/* The file that remembers figures of machines: 100 records of up to 2 KiB. */
#define MACHINE_RECORDS_BYTES_MAX (256u << 10)
/* The one that remembers links: LINK_RECORDS_MAX of up to 512 bytes. */
#define LINK_RECORDS_BYTES_MAX (128u << 10)

/* ---- Models. About four times the largest published model (Kimi-K2: 61 layers, 384 experts, 8 of
 * them per token, hidden 7168; vocabulary 163840), so that sizes computed from a file stay far from
 * overflow. */
#define LAYERS_MAX            256
#define EXPERTS_MAX           2048
#define EXPERTS_PER_TOKEN_MAX 64
#define GROUPS_MAX            256
#define HEADS_MAX             1024
#define HIDDEN_MAX            65536
#define INNER_MAX             1048576
#define RANK_MAX              65536
#define HEAD_DIM_MAX          4096
#define VOCABULARY_MAX        1048576
#define CONTEXT_MAX           16777216

/* ---- Configuration. */
/* Options of one command: `skein run`, the longest table, has about 40. */
#define OPTIONS_MAX 128
/* Arguments of one command that have no name: `skein quantize IN OUT`. */
#define OPERANDS_MAX 2
/* Values of an option that may be given several times: a worker list is the longest. */
#define OPTION_ITEMS_MAX 256
/* A --config file: OPTIONS_MAX lists of OPTION_ITEMS_MAX addresses of 32 bytes. */
#define CONFIG_FILE_BYTES_MAX (1u << 20)

/* ---- Files. */
/* config.json, tokenizer.json and the index: the largest known (V3's index, 8.9 MB) times seven. */
#define JSON_FILE_BYTES_MAX (64u << 20)
/* A safetensors header: the format's own bound is 100 MB. */
#define SAFETENSORS_HEADER_BYTES_MAX 100000000u
/* A GGUF file's metadata: mostly the tokens and merges of a vocabulary, as in tokenizer.json. Keeps
 * to JSON_FILE_BYTES_MAX, which bounds what vocabularies hold. */
#define GGUF_METADATA_BYTES_MAX JSON_FILE_BYTES_MAX
/* Keys of that metadata: V3 has about 50, with an importance matrix and notes under 100. */
#define GGUF_KEYS_MAX 4096
/* The length of such a key; real ones stay under 64 bytes. */
#define GGUF_KEY_BYTES_MAX 255u
/* Values in all arrays of the metadata: tokens, their types, scores and merges. */
#define GGUF_ARRAY_VALUES_MAX (4u * VOCABULARY_MAX)
/* GGUF's own bound. */
#define GGUF_DIMENSIONS_MAX 4u
/* Real files have 32; a page and some more would do as well. */
#define GGUF_ALIGNMENT_MAX (1u << 20)
/* The name of a tensor; real ones stay under 80 bytes. */
#define TENSOR_NAME_BYTES_MAX 255u
/* Dimensions of a tensor; published checkpoints have at most 4. */
#define TENSOR_DIMENSIONS_MAX 8u
/* Files of one checkpoint: V3 has 163, Kimi-K2 62. */
#define WEIGHT_FILES_MAX 4096
/* The name of a file in the model's directory: what Linux file systems take (NAME_MAX). */
#define FILE_NAME_BYTES_MAX 255u
/* Tensors of one checkpoint: V3 in FP8 has 91991. */
#define TENSORS_MAX 1048576

/* Weights that `skein quantize` converts at a time: 4 M are 8 MiB of BF16 in and at most 16 MiB of
 * F32 out, milliseconds of work for each of many threads. Only rows that must stay together, 128 of
 * FP8 or a head's, may be more. */
#define EXPORT_CHUNK_VALUES (4u << 20)

/* ---- Tokens. */
/* A text that is encoded at once: four bytes, about one English token, for each token of the
 * longest context. Also keeps positions in a text within 32 bits. */
#define TEXT_BYTES_MAX (4u * CONTEXT_MAX)
/* One token, as tokenizer.json writes it: V3's longest are 256 bytes (128 blanks). */
#define TOKEN_BYTES_MAX 4096
/* Steps of a pre-tokenizer: V1's has six, the most known. */
#define PRETOKENIZER_STEPS_MAX 32
/* Rows that go through the engine in one step; the prompt is cut into chunks of at most this.
 * Reply frames hold one row of f32 each: 8192 x HIDDEN_MAX x 4 B = 2 GiB stays under 32 bits. */
#define BATCH_ROWS_MAX 8192
/* Powers of two from 1 to BATCH_ROWS_MAX. */
#define BATCH_SIZES 14
/* Sequences in one step. */
#define SEQUENCES_MAX 256

/* A prompt from a file or standard input: CONTEXT_MAX tokens of four bytes, as text has on average.
 */
#define PROMPT_BYTES_MAX (64u << 20)
/* Lines that the chat's history keeps: months of questions, read in a millisecond. */
#define HISTORY_LINES_MAX 1000

/* Repetitions of `skein bench`: beyond these a median gets no steadier. */
#define BENCH_REPETITIONS_MAX 10000
/* Events of a trace, 40 bytes each: a thousand decode steps of V3 on eight workers. */
#define TRACE_EVENTS_MAX (1u << 21)
