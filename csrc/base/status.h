/* What a function that can fail returns. Kernels cannot fail; whatever allocates can. */
#ifndef DAD_STATUS_H
#define DAD_STATUS_H

typedef enum {
    DAD_OK = 0,
    DAD_NO_MEMORY, /* an allocation failed, or a size does not fit ptrdiff_t */
    DAD_BAD_SHAPE, /* the arguments' shapes do not fit each other */
} dad_status;

#if defined(__GNUC__)
#define DAD_MUST_CHECK __attribute__((warn_unused_result))
#else
#define DAD_MUST_CHECK
#endif

#endif
