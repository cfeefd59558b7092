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

/* ---- Cluster. */
/* Payload of one data frame: BATCH_ROWS_MAX rows of HIDDEN_MAX f32 (2 GiB) and
 * ENTRIES_PER_ROW_MAX entries of 12 bytes for each row (24 MiB), so a bound of 3 GiB leaves headers
 * room. */
#define WIRE_PAYLOAD_BYTES_MAX (3ull << 30)
/* The sentence in a WIRE_ERROR frame. */
#define WIRE_ERROR_BYTES_MAX 1024
/* Payload of a frame that measures a link: 3 ms at 10 Gbit/s, which is long against a round trip.
 */
#define WIRE_PROBE_BYTES_MAX (4u << 20)
/* Messages posted on one connection and not yet completed, in each direction: two per ticket. */
#define TRANSPORT_POSTED_MAX 8
/* Parts of one copy of an expert on one holder: a slice of its own, and pieces of the slices of
 * holders that were lost. */
#define PARTS_PER_HOLDER_MAX 4
/* Entries of one row in a frame. */
#define ENTRIES_PER_ROW_MAX (EXPERTS_PER_TOKEN_MAX * PARTS_PER_HOLDER_MAX)
/* Bytes of a connection that may come in ahead of the message they belong to. So much is also asked
 * for before a message's length is known: two rows of 7168 f32, or eight in BF16 and fewer. */
#define TRANSPORT_AHEAD_BYTES_MAX (64u << 10)
/* Buffers that the kernel is told of: one to send from and one to receive into for each ticket of
 * each worker. */
#define TRANSPORT_REGIONS_MAX (2 * TICKETS_MAX * WORKERS_MAX)
/* Bytes of each that are pinned: four rows of 7168 f32. Eight workers then take half of the 8 MiB
 * that a process may pin on most systems. */
#define TRANSPORT_PINNED_BYTES_MAX (128u << 10)
/* The longest look before sleeping. A frame of 28 KiB goes there and back in 30 to 100 us between
 * machines; beyond twice that, being woken (5 to 10 us) no longer matters. */
#define SPIN_NS_MAX 200000u
/* Workers of one coordinator. */
#define WORKERS_MAX 256
/* Holders of experts: all workers, and the coordinator's own process. */
#define HOLDERS_MAX (WORKERS_MAX + 1)
/* Tickets between dispatch and combine: two micro-batches that alternate. */
#define TICKETS_MAX 2
/* Shards of one worker: every expert of every layer of the largest model allowed above. */
#define SHARDS_MAX (LAYERS_MAX * EXPERTS_MAX)
/* One control message. The largest is an assignment: SHARDS_MAX entries of at most 20 bytes. */
#define CONTROL_MESSAGE_BYTES_MAX (16u << 20)
/* Shard bytes in one control message while weights are shipped. */
#define SHIP_CHUNK_BYTES (1u << 20)
/* Control connections of one worker: one coordinator, and a few that are told it is busy. */
#define CONTROL_CONNECTIONS_MAX 16
/* A control message of a peer that has not introduced itself: a Hello is under 1 KiB. */
#define CONTROL_GREETING_BYTES_MAX (64u << 10)
/* Memory that one control message may unpack to: lists of numbers that take one byte each as a
 * varint take four in memory, and protobuf-c's scan of an unfriendly message takes as much again.
 */
#define CONTROL_UNPACKED_BYTES_MAX (8u * CONTROL_MESSAGE_BYTES_MAX)
/* Accepted sockets that have not yet said whether they are control or data connections. */
#define ARRIVALS_MAX 16
/* Both sides report four times a second. When twelve reports in a row fail to come the peer is
 * gone; after two it is worth asking somebody else, where there is somebody. */
#define HEALTH_INTERVAL_MS 250
#define HEALTH_MISSED_MAX  12
#define HEALTH_SILENT_MAX  2
/* What a worker that is told to end waits for its coordinator to find others. */
#define DRAIN_TIMEOUT_MS 30000
/* What a connection that says its last words waits for the peer to close. */
#define FINISH_TIMEOUT_MS 1000
/* After its loss a worker is called again and again, at intervals that double between these. One
 * that served for longer than the longest has earned the shortest. */
#define RECONNECT_MIN_MS 1000
#define RECONNECT_MAX_MS 8000
/* How long a generation waits for experts that no worker serves. */
#define WORKER_TIMEOUT_DEFAULT_S 600
#define WORKER_TIMEOUT_MAX_S     (7 * 24 * 3600)
/* For all workers together, until each has answered the greeting. Also what an accepted socket may
 * take to say what it is. */
#define CONNECT_TIMEOUT_MS 5000
/* For all workers together, until each has measured itself: a second is usual, on a slow machine
 * with many weight formats some more. */
#define MEASURE_TIMEOUT_MS 60000
/* For all probes of one link: 49 of them at most, whose payloads move for 200 ms together. */
#define PROBE_TIMEOUT_MS 10000
/* A worker that reports no further byte for so long has a stuck disk or file server. */
#define LOAD_STALL_MS 30000
/* Messages with shard bytes on their way to one worker: 4 MiB fill a link of 10 Gbit/s for 3 ms. */
#define SHIP_WRITES_MAX 4
/* Frames of a worker that are received, computed or sent: one for each ticket. */
#define SERVICE_FRAMES TICKETS_MAX
