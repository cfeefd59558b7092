/* Pages are placed by touching them while the thread prefers a node, and not by a policy of the
 * mapping: each change of policy would cut a mapping in two, and a model has more matrices than
 * Linux allows mappings. */
#include "common/nodes.h"

#include <numa.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <unistd.h>

/* Nodes of the largest machines are far fewer. */
#define NODES_MAX 64

/* The usable nodes, by number; returns how many. With a single node none. */
static unsigned list_nodes(int nodes[NODES_MAX]) {
    unsigned count = 0;
    bool has_nodes = numa_available() >= 0 && numa_num_configured_nodes() > 1;
    struct bitmask *own = has_nodes ? numa_allocate_cpumask() : NULL;
    struct bitmask *cpus = own ? numa_allocate_cpumask() : NULL;
    if (cpus && numa_sched_getaffinity(0, own) >= 0)
        for (int node = 0; node <= numa_max_node() && count < NODES_MAX; node++) {
            if (numa_node_to_cpus(node, cpus) < 0)
                continue;
            bool is_usable = false;
            for (unsigned cpu = 0; cpu < cpus->size && !is_usable; cpu++)
                is_usable = numa_bitmask_isbitset(cpus, cpu) && numa_bitmask_isbitset(own, cpu);
            if (is_usable)
                nodes[count++] = node;
        }
    if (cpus)
        numa_free_cpumask(cpus);
    if (own)
        numa_free_cpumask(own);
    return count;
}

unsigned nodes_count(void) {
    int nodes[NODES_MAX];
    unsigned count = list_nodes(nodes);
    return count ? count : 1;
}

void nodes_bind_thread(unsigned thread, unsigned count) {
    int nodes[NODES_MAX];
    unsigned node_count = list_nodes(nodes);
    if (node_count < 2)
        return;
    int node = nodes[(size_t)thread * node_count / count];
    struct bitmask *own = numa_allocate_cpumask(), *cpus = numa_allocate_cpumask();
    if (own && cpus && numa_sched_getaffinity(0, own) >= 0 && numa_node_to_cpus(node, cpus) >= 0) {
        for (unsigned cpu = 0; cpu < cpus->size; cpu++)
            if (!numa_bitmask_isbitset(own, cpu))
                numa_bitmask_clearbit(cpus, cpu);
        numa_sched_setaffinity(0, cpus);
    }
    if (own)
        numa_free_cpumask(own);
    if (cpus)
        numa_free_cpumask(cpus);
}

size_t nodes_part_begin(size_t address, size_t bytes, size_t page_bytes, unsigned part,
                        unsigned count) {
    if (part == count)
        return address + bytes;
    size_t begin = address + bytes / count * part;
    begin = (begin + page_bytes - 1) / page_bytes * page_bytes;
    return begin < address + bytes ? begin : address + bytes;
}

void nodes_place(void *memory, size_t bytes) {
    int nodes[NODES_MAX];
    unsigned count = list_nodes(nodes);
    if (count < 2)
        return;
    size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE), address = (uintptr_t)memory;
    for (unsigned part = 0; part < count; part++) {
        size_t end = nodes_part_begin(address, bytes, page_bytes, part + 1, count);
        numa_set_preferred(nodes[part]);
        for (size_t at = nodes_part_begin(address, bytes, page_bytes, part, count); at < end;
             at += page_bytes)
            *(volatile char *)at = 0;
    }
    numa_set_localalloc();
}
