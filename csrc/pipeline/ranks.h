/* What every way of ranking scores shares: keys that sort like scores, exact shares of
 * regions, and the area under a piece of the overlap curve. */
#ifndef DAD_RANKS_H
#define DAD_RANKS_H

#include <stdint.h>
#include <string.h>

/* ---- Keys: unsigned, rising while the score falls; -0.0 and 0.0 are equal -------- */

static inline uint32_t dad_key_of_float(float score) {
    float value = score + 0.0f; /* -0.0 becomes 0.0 */
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return (bits >> 31) != 0 ? bits : ~(bits | UINT32_C(1) << 31);
}

static inline float dad_float_of_key(uint32_t key) {
    uint32_t bits = (key >> 31) != 0 ? key : ~(key | UINT32_C(1) << 31);
    float score;
    memcpy(&score, &bits, sizeof(score));
    return score;
}

static inline uint64_t dad_key_of_double(double score) {
    double value = score + 0.0;
    uint64_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return (bits >> 63) != 0 ? bits : ~(bits | UINT64_C(1) << 63);
}

static inline double dad_double_of_key(uint64_t key) {
    uint64_t bits = (key >> 63) != 0 ? key : ~(key | UINT64_C(1) << 63);
    double score;
    memcpy(&score, &bits, sizeof(score));
    return score;
}

/* ---- Shares of regions ----------------------------------------------------------- */

/* A sum of 1 / size in units of 2^-64: integers, so that the sum is the same bit for bit in
 * whatever order and in however many parts it is made. A whole region is 1 to 6e-14 for a
 * million pixels. */
typedef struct {
    uint64_t low, high;
} dad_share;

static inline void dad_share_add(dad_share *sum, dad_share more) {
    sum->low += more.low;
    sum->high += more.high + (sum->low < more.low);
}

static inline dad_share dad_share_of_pixel(uint32_t region_size) {
    return (dad_share){.low = UINT64_MAX / region_size};
}

static inline double dad_share_value(dad_share sum) {
    return (double)sum.high + (double)sum.low * 0x1.0p-64;
}

/* ---- Overlap curve --------------------------------------------------------------- */

/* The trapezoid between false-positive counts left and right, as far as it lies before
 * `limit`, under an overlap that goes from `before` to `now`. */
static inline double dad_overlap_area(double left, double right, double before, double now,
                                      double limit) {
    double end = now;
    if (left >= limit) {
        return 0.0;
    }
    if (right > limit) {
        end = before + (now - before) * (limit - left) / (right - left);
        right = limit;
    }
    return (right - left) * (before + end) / 2;
}

#endif
