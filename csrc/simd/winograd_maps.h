/* The one-dimensional maps of Winograd's F(m, 3), a vector of channels at a time.
 *
 * With finite points p_i and N_i(x) = prod over j != i of (x - p_j):
 *
 *   input      B^T  row i: the coefficients of N_i; the last row: of prod (x - p_j)
 *   filter     G    row i: [1, p_i, p_i^2] / N_i(p_i); the last row: [0, 0, 1]
 *   output     A^T  column i: [1, p_i, p_i^2, ...]; the last one picks the highest power
 *   gradient, filter_adjoint: the transposes A and G^T
 *
 * The last rows stand for the point at infinity. Finite points: F(2) 0, +-1;
 * F(4) 0, +-1/sqrt(2), +-sqrt(2), with half the error of 0, +-1, +-2;
 * F(6) 0, +-1, +-2, +-1/2. Opposite points share their even and odd parts. */
#ifndef DAD_WINOGRAD_MAPS_H
#define DAD_WINOGRAD_MAPS_H

#include "simd/vec.h"

/* ---- F(2, 3) --------------------------------------------------------------------- */

DAD_INLINE void input_2(vf *o, const vf *d) {
    o[0] = d[2] - d[0];
    o[1] = d[2] + d[1];
    o[2] = d[2] - d[1];
    o[3] = d[3] - d[1];
}

DAD_INLINE void filter_2(vf *u, const vf *g) {
    vf even = 0.5f * (g[0] + g[2]), odd = 0.5f * g[1];
    u[0] = -g[0];
    u[1] = even + odd;
    u[2] = even - odd;
    u[3] = g[2];
}

DAD_INLINE void filter_adjoint_2(vf *g, const vf *u) {
    vf even = 0.5f * (u[1] + u[2]);
    g[0] = even - u[0];
    g[1] = 0.5f * (u[1] - u[2]);
    g[2] = even + u[3];
}

DAD_INLINE void output_2(vf *y, const vf *m) {
    y[0] = m[0] + (m[1] + m[2]);
    y[1] = (m[1] - m[2]) + m[3];
}

DAD_INLINE void gradient_2(vf *m, const vf *y) {
    m[0] = y[0];
    m[1] = y[0] + y[1];
    m[2] = y[0] - y[1];
    m[3] = y[1];
}

/* ---- F(4, 3): p = 1/sqrt(2), q = sqrt(2) ----------------------------------------- */

#define P4 0.70710678118654752f
#define Q4 1.41421356237309505f

DAD_INLINE void input_4(vf *o, const vf *d) {
    vf even_p = d[4] - 2.0f * d[2], odd_p = P4 * (d[3] - 2.0f * d[1]);
    vf even_q = d[4] - 0.5f * d[2], odd_q = Q4 * (d[3] - 0.5f * d[1]);
    o[0] = d[0] + (d[4] - 2.5f * d[2]);
    o[1] = even_p + odd_p;
    o[2] = even_p - odd_p;
    o[3] = even_q + odd_q;
    o[4] = even_q - odd_q;
    o[5] = d[1] + (d[5] - 2.5f * d[3]);
}

DAD_INLINE void filter_4(vf *u, const vf *g) {
    vf even_p = (-2.0f / 3.0f) * g[0] - (1.0f / 3.0f) * g[2];
    vf even_q = (1.0f / 6.0f) * g[0] + (1.0f / 3.0f) * g[2];
    vf odd_p = (-2.0f / 3.0f * P4) * g[1], odd_q = (1.0f / 6.0f * Q4) * g[1];
    u[0] = g[0];
    u[1] = even_p + odd_p;
    u[2] = even_p - odd_p;
    u[3] = even_q + odd_q;
    u[4] = even_q - odd_q;
    u[5] = g[2];
}

DAD_INLINE void filter_adjoint_4(vf *g, const vf *u) {
    vf sum_p = u[1] + u[2], sum_q = u[3] + u[4];
    g[0] = u[0] + ((1.0f / 6.0f) * sum_q - (2.0f / 3.0f) * sum_p);
    g[1] = (1.0f / 6.0f * Q4) * (u[3] - u[4]) - (2.0f / 3.0f * P4) * (u[1] - u[2]);
    g[2] = u[5] + (1.0f / 3.0f) * (sum_q - sum_p);
}

DAD_INLINE void output_4(vf *y, const vf *m) {
    vf sum_p = m[1] + m[2], difference_p = P4 * (m[1] - m[2]);
    vf sum_q = m[3] + m[4], difference_q = Q4 * (m[3] - m[4]);
    y[0] = m[0] + sum_p + sum_q;
    y[1] = difference_p + difference_q;
    y[2] = 0.5f * sum_p + 2.0f * sum_q;
    y[3] = m[5] + 0.5f * difference_p + 2.0f * difference_q;
}

DAD_INLINE void gradient_4(vf *m, const vf *y) {
    vf even_p = y[0] + 0.5f * y[2], odd_p = P4 * (y[1] + 0.5f * y[3]);
    vf even_q = y[0] + 2.0f * y[2], odd_q = Q4 * (y[1] + 2.0f * y[3]);
    m[0] = y[0];
    m[1] = even_p + odd_p;
    m[2] = even_p - odd_p;
    m[3] = even_q + odd_q;
    m[4] = even_q - odd_q;
    m[5] = y[3];
}

#undef P4
#undef Q4

/* ---- F(6, 3) --------------------------------------------------------------------- */

DAD_INLINE void input_6(vf *o, const vf *d) {
    vf even, odd;
    o[0] = d[6] - d[0] - 5.25f * (d[4] - d[2]);
    even = d[6] - 4.25f * d[4] + d[2], odd = d[5] - 4.25f * d[3] + d[1];
    o[1] = even + odd;
    o[2] = even - odd;
    even = d[6] - 1.25f * d[4] + 0.25f * d[2];
    odd = 2.0f * (d[5] - 1.25f * d[3] + 0.25f * d[1]);
    o[3] = even + odd;
    o[4] = even - odd;
    even = d[6] - 5.0f * d[4] + 4.0f * d[2];
    odd = 0.5f * (d[5] - 5.0f * d[3] + 4.0f * d[1]);
    o[5] = even + odd;
    o[6] = even - odd;
    o[7] = d[7] - d[1] - 5.25f * (d[5] - d[3]);
}

DAD_INLINE void filter_6(vf *u, const vf *g) {
    vf even, odd;
    u[0] = -g[0];
    even = (-2.0f / 9.0f) * (g[0] + g[2]), odd = (-2.0f / 9.0f) * g[1];
    u[1] = even + odd;
    u[2] = even - odd;
    even = (1.0f / 90.0f) * (g[0] + 4.0f * g[2]), odd = (1.0f / 45.0f) * g[1];
    u[3] = even + odd;
    u[4] = even - odd;
    even = (32.0f / 45.0f) * (g[0] + 0.25f * g[2]), odd = (16.0f / 45.0f) * g[1];
    u[5] = even + odd;
    u[6] = even - odd;
    u[7] = g[2];
}

DAD_INLINE void filter_adjoint_6(vf *g, const vf *u) {
    vf one = (-2.0f / 9.0f) * (u[1] + u[2]);
    vf two = (1.0f / 90.0f) * (u[3] + u[4]);
    vf half = (32.0f / 45.0f) * (u[5] + u[6]);
    g[0] = one + two + half - u[0];
    g[1] = (1.0f / 45.0f) * (u[3] - u[4]) + (16.0f / 45.0f) * (u[5] - u[6]) -
           (2.0f / 9.0f) * (u[1] - u[2]);
    g[2] = one + 4.0f * two + 0.25f * half + u[7];
}

DAD_INLINE void output_6(vf *y, const vf *m) {
    vf one = m[1] + m[2], two = m[3] + m[4], half = m[5] + m[6];
    y[0] = m[0] + one + two + half;
    y[2] = one + 4.0f * two + 0.25f * half;
    y[4] = one + 16.0f * two + 0.0625f * half;
    one = m[1] - m[2], two = m[3] - m[4], half = m[5] - m[6];
    y[1] = one + 2.0f * two + 0.5f * half;
    y[3] = one + 8.0f * two + 0.125f * half;
    y[5] = one + 32.0f * two + 0.03125f * half + m[7];
}

DAD_INLINE void gradient_6(vf *m, const vf *y) {
    vf even, odd;
    m[0] = y[0];
    even = y[0] + y[2] + y[4], odd = y[1] + y[3] + y[5];
    m[1] = even + odd;
    m[2] = even - odd;
    even = y[0] + 4.0f * y[2] + 16.0f * y[4];
    odd = 2.0f * (y[1] + 4.0f * y[3] + 16.0f * y[5]);
    m[3] = even + odd;
    m[4] = even - odd;
    even = y[0] + 0.25f * y[2] + 0.0625f * y[4];
    odd = 0.5f * (y[1] + 0.25f * y[3] + 0.0625f * y[5]);
    m[5] = even + odd;
    m[6] = even - odd;
    m[7] = y[5];
}

#endif
