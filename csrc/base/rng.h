/* Random numbers that are a function of (seed, stream) alone: xoshiro256++ seeded by
 * SplitMix64. One generator per sample (or per element, for dropout): no order of threads
 * can change a draw. */
#ifndef DAD_RNG_H
#define DAD_RNG_H

#include <stdint.h>

typedef struct {
    uint64_t s[4];
} dad_rng;

static inline uint64_t dad_splitmix64(uint64_t *state) {
    uint64_t z = (*state += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

static inline dad_rng dad_rng_seed(uint64_t seed, uint64_t stream) {
    dad_rng rng;
    uint64_t state = seed;
    state = dad_splitmix64(&state) ^ (stream * UINT64_C(0xD1342543DE82EF95));
    for (int i = 0; i < 4; i++) {
        rng.s[i] = dad_splitmix64(&state);
    }
    return rng;
}

static inline uint64_t dad_rng_next(dad_rng *rng) {
    uint64_t *s = rng->s;
    uint64_t sum = s[0] + s[3];
    uint64_t result = ((sum << 23) | (sum >> 41)) + s[0];
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = (s[3] << 45) | (s[3] >> 19);
    return result;
}

/* Uniform in [0, 1), 53 bits. */
static inline double dad_rng_uniform(dad_rng *rng) {
    return (double)(dad_rng_next(rng) >> 11) * 0x1.0p-53;
}

/* Uniform in [low, high). */
static inline double dad_rng_range(dad_rng *rng, double low, double high) {
    return low + (high - low) * dad_rng_uniform(rng);
}

/* Uniform in 0 .. count - 1 (bias below 2^-32 for count < 2^31). */
static inline int64_t dad_rng_below(dad_rng *rng, int64_t count) {
    return (int64_t)((dad_rng_next(rng) >> 32) * (uint64_t)count >> 32);
}

#endif
