/* The output head: logits, with the rows of it that workers have computed by them. All of it is
 * here as well, so nothing can be lost: what a worker does not answer is computed after all. Used
 * by the engine's thread. */
#pragma once

#include "common/kernel/matmul.h"
#include "coordinator/dispatch.h"

struct head {
    struct dispatch *dispatch;
    const struct matmul_workspace *matmul; /* for rows of `weights` */
    const struct matrix *weights;          /* (vocabulary, hidden) */
};

/* logits (rows, vocabulary) = x (rows, hidden) W^T. Workers are asked as long as their answers fit
 * into the buffers for a step's (as many values as its batch has, one row at least); more rows are
 * computed here, since a vocabulary for each would have to travel. No ticket is open. */
void head_logits(const struct head *head, const float *x, uint32_t rows, float *logits);
