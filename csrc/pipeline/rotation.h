/* A rotation about an image's centre, read backwards: where output pixel (y, x) comes from.
 * Coordinates are fixed point with 16 fractional bits: good to W / 2^17 pixels. */
#ifndef DAD_ROTATION_H
#define DAD_ROTATION_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

enum { DAD_FIXED_BITS = 16, DAD_FIXED_ONE = 1 << DAD_FIXED_BITS };

typedef struct {
    double cosine, sine, centre_y, centre_x;
} dad_rotation;

typedef struct {
    int64_t y, x;           /* the source of the row's first pixel */
    int64_t step_y, step_x; /* from pixel to pixel */
} dad_rotated_row;

static inline dad_rotation dad_rotation_by(double degrees, ptrdiff_t H, ptrdiff_t W) {
    double radians = degrees * (3.14159265358979323846 / 180.0);
    return (dad_rotation){cos(radians), sin(radians), (double)(H - 1) / 2.0,
                          (double)(W - 1) / 2.0};
}

static inline int64_t dad_fixed(double value) { return llrint(value * DAD_FIXED_ONE); }

static inline dad_rotated_row dad_rotation_row(const dad_rotation *r, ptrdiff_t y) {
    double down = (double)y - r->centre_y, across = -r->centre_x;
    return (dad_rotated_row){
        .y = dad_fixed(r->centre_y - r->sine * across + r->cosine * down),
        .x = dad_fixed(r->centre_x + r->cosine * across + r->sine * down),
        .step_y = dad_fixed(-r->sine),
        .step_x = dad_fixed(r->cosine),
    };
}

#endif
