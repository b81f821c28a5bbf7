/* Kinds of processors that the operators are made for, each with code of its own. */
#ifndef EDGEGEN_KINDS_H
#define EDGEGEN_KINDS_H

enum { AVX512_VNNI, AVX_VNNI, AVX2, KINDS };

extern int chosen_kind; /* of the sessions made from now on; below 0: none of ours is chosen yet */

const char *edgegen_choose(const char *name);

#endif
