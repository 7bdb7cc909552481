/* Packed filters: from PyTorch's [O, C, KH, KW] to panels of 16 output channels.
 *
 * The gradient of the input sees the filter with its channels exchanged and its taps
 * reversed. Work is cut into a panel by 16 summed channels; such a piece is first gathered
 * tap by tap, so that w is read in runs and packed written in runs. Threads share the
 * pieces. */
#include "base/memory.h"
#include "base/threads.h"
#include "kernels/conv2d.h"

enum { GATHER = 16 };

dad_filter_view dad_filter_of(const dad_conv2d_shape *shape, dad_conv_pass pass) {
    const bool forward = pass == DAD_CONV_FORWARD;
    return (dad_filter_view){.outputs = forward ? shape->O : shape->C,
                             .inputs = forward ? shape->C : shape->O,
                             .taps = shape->KH * shape->KW,
                             .pass = pass};
}

/* dst [inputs][taps][DAD_PANEL] for `count` inputs from `first` on, taps first_tap .. +
 * taps. */
static void gather(float *dst, const float *w, const dad_filter_view *view, ptrdiff_t panel,
                   ptrdiff_t first, ptrdiff_t count, ptrdiff_t first_tap, ptrdiff_t taps) {
    const bool forward = view->pass == DAD_CONV_FORWARD;
    const ptrdiff_t step =
        forward ? view->taps : view->outputs * view->taps; /* of an input */
    for (ptrdiff_t lane = 0; lane < DAD_PANEL; lane++) {
        const ptrdiff_t output = panel * DAD_PANEL + lane;
        const ptrdiff_t origin =
            forward ? output * view->inputs * view->taps : output * view->taps;
        for (ptrdiff_t c = 0; c < count; c++) {
            for (ptrdiff_t k = 0; k < taps; k++) {
                const ptrdiff_t tap =
                    forward ? first_tap + k : view->taps - 1 - first_tap - k;
                dst[(c * taps + k) * DAD_PANEL + lane] =
                    output < view->outputs ? w[origin + (first + c) * step + tap] : 0.0f;
            }
        }
    }
}

void dad_pack_winograd(float *packed, const float *w, const dad_filter_view *view,
                       const dad_winograd_ops *ops) {
    const ptrdiff_t points = (ops->tile + 2) * (ops->tile + 2);
    const ptrdiff_t panels = dad_ceil_div(view->outputs, DAD_PANEL);
    const ptrdiff_t inputs = view->inputs, point_stride = inputs * DAD_PANEL;
#pragma omp parallel for collapse(2) num_threads(dad_num_threads())
    for (ptrdiff_t panel = 0; panel < panels; panel++) {
        for (ptrdiff_t c = 0; c < inputs; c += GATHER) {
            float piece[GATHER * 9 * DAD_PANEL];
            const ptrdiff_t count = dad_min(GATHER, inputs - c);
            gather(piece, w, view, panel, c, count, 0, 9);
            float *u = packed + panel * points * point_stride + c * DAD_PANEL;
            for (ptrdiff_t i = 0; i < count; i++) {
                ops->filter(u + i * DAD_PANEL, point_stride, piece + i * 9 * DAD_PANEL);
            }
        }
    }
}

void dad_pack_matmul(float *packed, const float *w, const dad_filter_view *view) {
    const ptrdiff_t panels = dad_ceil_div(view->outputs, DAD_PANEL);
    const ptrdiff_t inputs = view->inputs;
#pragma omp parallel for collapse(2) num_threads(dad_num_threads())
    for (ptrdiff_t panel = 0; panel < panels; panel++) {
        for (ptrdiff_t tap = 0; tap < view->taps; tap++) {
            gather(packed + (panel * view->taps + tap) * inputs * DAD_PANEL, w, view, panel,
                   0, inputs, tap, 1);
        }
    }
}
