/* NUMA nodes: which of them a thread runs on, and where memory lies. On a machine with one node all
 * of this does nothing.
 *
 * A loop over the thread pool gives each thread a run of consecutive tasks, and the tasks of a
 * product go through the rows of a matrix in order. With threads spread over the nodes in order,
 * and the n-th part of each matrix in the memory of the n-th node, most rows are read by a thread
 * that is near. */
#pragma once

#include <stddef.h>

/* Nodes that have processors this process may run on: at least 1. To be called once before there
 * are threads, because libnuma remembers without a lock which processors a node has. */
unsigned nodes_count(void);

/* Keeps the calling thread, the `thread`-th of `count`, on its node's processors, as far as the
 * process may use them. */
void nodes_bind_thread(unsigned thread, unsigned count);

/* Gives memory whose contents do not matter yet, and whose pages nothing has touched, its places:
 * the n-th of equal parts, in whole pages, on the n-th node, or elsewhere when that is full. */
void nodes_place(void *memory, size_t bytes);

/* Where the n-th of `count` parts of `bytes` at `address` begins, rounded up to a page; part
 * `count` is the end. */
size_t nodes_part_begin(size_t address, size_t bytes, size_t page_bytes, unsigned part,
                        unsigned count);
