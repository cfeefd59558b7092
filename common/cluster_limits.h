/* Bounds and deadlines of what goes on between coordinator and workers. Each comment has the
 * arithmetic. */
#pragma once

#include "common/limits.h"

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
#define ENTRIES_PER_ROW_MAX (EXPERTS_PER_TOKEN_MAX * PARTS_PER_HOLDER_MAX + 1)
/* Bytes of a connection that may come in ahead of the message they belong to. So much is also asked
 * for before a message's length is known: two rows of 7168 f32, or eight in BF16 and fewer. */
#define TRANSPORT_AHEAD_BYTES_MAX (64u << 10)
/* Tickets whose buffers are pinned: a decode step has one, two if its sequences are divided. */
#define TICKETS_PINNED_MAX 2
/* Buffers that the kernel is told of: one to send from and one to receive into for each of these
 * tickets and each worker. */
#define TRANSPORT_REGIONS_MAX (2 * TICKETS_PINNED_MAX * WORKERS_MAX)
/* Bytes of each that are pinned: four rows of 7168 f32. Eight workers then take half of the 8 MiB
 * that a process may pin on most systems. */
#define TRANSPORT_PINNED_BYTES_MAX (128u << 10)
/* The longest look before sleeping. A frame of 28 KiB goes there and back in 30 to 100 us between
 * machines; beyond twice that, being woken (5 to 10 us) no longer matters. */
#define SPIN_NS_MAX 200000u
/* Workers of one coordinator. */
#define WORKERS_MAX 256
/* Of these, workers that a cluster file may gain while a run goes on. Their places in all tables
 * are there from the beginning, since tables never move; the frames of each are address space only.
 */
#define WORKERS_JOINING_MAX 8
/* Holders of experts: all workers, and the coordinator's own process. */
#define HOLDERS_MAX (WORKERS_MAX + 1)
/* Tickets between dispatch and combine: the micro-batches of one step, of which one is on its way
 * to workers, one computed there, one on its way back, and one here. */
#define TICKETS_MAX 4
/* Shards of one worker: every expert of every layer of the largest model allowed above. */
#define SHARDS_MAX (LAYERS_MAX * EXPERTS_MAX)
/* Shards on a worker's disk are read into buffers, at least two: one is filled while another is
 * computed. */
#define SPILL_BUFFERS_MIN 2u
/* Of a shard: whole blocks of the disk (DISK_BLOCK_BYTES). */
#define SPILL_BUFFER_BYTES(shard_bytes) (((uint64_t)(shard_bytes) + 4095) / 4096 * 4096)
/* Reads of shards that are given to the kernel at once: 64 experts of 16 MiB are what the fastest
 * disks read in 100 ms. */
#define DISK_READS_MAX 64u
/* One control message. The largest is an assignment: SHARDS_MAX entries of at most 25 bytes. */
#define CONTROL_MESSAGE_BYTES_MAX (16u << 20)
/* Shard bytes in one control message while weights are shipped. */
#define SHIP_CHUNK_BYTES (1u << 20)
/* Other workers that one worker gives shards to at a time: each holds SHIP_WRITES_MAX chunks, 64
 * MiB together. Whoever is one too many asks its coordinator. */
#define GIVERS_MAX 16
/* Control connections of one worker: one coordinator, other workers, and a few that are told it is
 * busy. */
#define CONTROL_CONNECTIONS_MAX (GIVERS_MAX + 16)
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
/* The same for one that only begins a new session. */
#define RECONNECT_ANEW_MS 50
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
/* The same for one that has something to release, for which the frame at hand comes first: that may
 * take COMBINE_TIMEOUT_S. */
#define RELEASE_STALL_MS 150000
/* A worker from which another one has got nothing for so long is not waited for: a third of
 * LOAD_STALL_MS, so that the coordinator does not take the waiting one for stuck. */
#define FETCH_STALL_MS 10000
/* Messages with shard bytes on their way to one worker: 4 MiB fill a link of 10 Gbit/s for 3 ms. */
#define SHIP_WRITES_MAX 4
/* Messages on their way to one worker beyond which no further source is named: each takes 300 bytes
 * at most, and a worker has up to SHARDS_MAX slots. */
#define SHIP_SOURCES_MAX 256
/* Frames of a worker: one is received, one computed, one sent. A fourth of the coordinator's
 * tickets waits in the sockets' buffers. */
#define SERVICE_FRAMES 3
