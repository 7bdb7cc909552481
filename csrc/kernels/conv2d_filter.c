/* Filters: kept as panels of 16 output channels, [panel][C][taps][16], and turned from them
 * into what a pass multiplies by.
 *
 * Winograd's U = G g G^T takes four times the memory of g (F(4x4)), so it is made when it
 * is needed, a panel at a time: that costs less than reading it from memory would. The
 * gradient of the input sees the filter with its channels exchanged and its taps reversed;
 * a piece of 16 by 16 channels is then gathered first. */
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
#include "kernels/conv2d.h"

enum {
    PIECE = 16,       /* summed channels at a time: those of a panel */
    MOST_POINTS = 64, /* F(6x6)'s; in bfloat16 no filter has more */
};

void dad_filter_to_panels(float *panels, const float *w, ptrdiff_t O, ptrdiff_t C,
                          ptrdiff_t taps) {
    const ptrdiff_t run = C * taps;
#pragma omp parallel for num_threads(dad_num_threads())
    for (ptrdiff_t panel = 0; panel < dad_ceil_div(O, DAD_PANEL); panel++) {
        const ptrdiff_t o = panel * DAD_PANEL, lanes = dad_min(DAD_PANEL, O - o);
        float *target = panels + o * run;
        for (ptrdiff_t i = 0; i < run; i++) {
            for (ptrdiff_t lane = 0; lane < DAD_PANEL; lane++) {
                target[i * DAD_PANEL + lane] =
                    lane < lanes ? w[(o + lane) * run + i] : 0.0f;
            }
        }
    }
}

void dad_filter_from_panels(float *w, const float *panels, ptrdiff_t O, ptrdiff_t C,
                            ptrdiff_t taps) {
    const ptrdiff_t run = C * taps;
#pragma omp parallel for num_threads(dad_num_threads())
    for (ptrdiff_t panel = 0; panel < dad_ceil_div(O, DAD_PANEL); panel++) {
        const ptrdiff_t o = panel * DAD_PANEL, lanes = dad_min(DAD_PANEL, O - o);
        const float *source = panels + o * run;
        for (ptrdiff_t lane = 0; lane < lanes; lane++) {
            for (ptrdiff_t i = 0; i < run; i++) {
                w[(o + lane) * run + i] = source[i * DAD_PANEL + lane];
            }
        }
    }
}

dad_filter_view dad_filter_of(const float *w, const dad_conv2d_shape *shape,
                              dad_conv_pass pass) {
    const bool forward = pass == DAD_CONV_FORWARD;
    return (dad_filter_view){.w = w,
                             .outputs = forward ? shape->O : shape->C,
                             .inputs = forward ? shape->C : shape->O,
                             .taps = shape->KH * shape->KW,
                             .pass = pass,
                             .bfloat16 = forward && shape->bfloat16};
}

/* piece [count][taps][16]: a panel of outputs for `count` inputs from `first` on, a
 * multiple of 16. Points into w where that holds it as it is. */
static const float *find_piece(float *piece, const dad_filter_view *view, ptrdiff_t panel,
                               ptrdiff_t first, ptrdiff_t count) {
    const ptrdiff_t taps = view->taps;
    if (view->pass == DAD_CONV_FORWARD) {
        return view->w + (panel * view->inputs + first) * taps * DAD_PANEL;
    }
    /* w [inputs / 16][outputs][taps][16 inputs] */
    const ptrdiff_t outputs = dad_min(DAD_PANEL, view->outputs - panel * DAD_PANEL);
    const float *w =
        view->w + (first * view->outputs + panel * DAD_PANEL * DAD_PANEL) * taps;
    if (outputs < DAD_PANEL) {
        memset(piece, 0, (size_t)(count * taps * DAD_PANEL) * sizeof(float));
    }
    for (ptrdiff_t lane = 0; lane < outputs; lane++) {
        for (ptrdiff_t tap = 0; tap < taps; tap++) {
            const float *run = w + (lane * taps + taps - 1 - tap) * DAD_PANEL;
            for (ptrdiff_t i = 0; i < count; i++) {
                piece[(i * taps + tap) * DAD_PANEL + lane] = run[i];
            }
        }
    }
    return piece;
}

void dad_filter_winograd(float *u, const dad_filter_view *view, const dad_winograd_ops *ops,
                         ptrdiff_t panel, ptrdiff_t first, ptrdiff_t count) {
    const ptrdiff_t point_stride = dad_filter_point(view);
    float own[PIECE * 9 * DAD_PANEL];
    for (ptrdiff_t c = first; c < first + count; c += PIECE) {
        const ptrdiff_t width = dad_min(PIECE, first + count - c);
        const float *piece = find_piece(own, view, panel, c, width);
        if (view->bfloat16) {
            for (ptrdiff_t i = 0; i < width; i += 2) {
                float two[MOST_POINTS * 2 * DAD_PANEL]; /* [point][channel][16] */
                ops->filter(two, 2 * DAD_PANEL, piece + i * 9 * DAD_PANEL);
                ops->filter(two + DAD_PANEL, 2 * DAD_PANEL,
                            piece + (i + 1) * 9 * DAD_PANEL);
                dad_simd()->conv->pair_bfloat16(u + (c + i) / 2 * DAD_PANEL, point_stride,
                                                two, ops->points);
            }
            continue;
        }
        for (ptrdiff_t i = 0; i < width; i++) {
            ops->filter(u + (c + i) * DAD_PANEL, point_stride, piece + i * 9 * DAD_PANEL);
        }
    }
}

void dad_filter_pair_winograd(float *u, const dad_filter_view *view,
                              const dad_winograd_ops *ops, ptrdiff_t o) {
    const ptrdiff_t u_panel = ops->points * dad_filter_point(view);
    for (int panel = 0; panel < dad_panels_at(o, view->outputs); panel++) {
        dad_filter_winograd(u + panel * u_panel, view, ops, o / DAD_PANEL + panel, 0,
                            view->inputs);
    }
}

void dad_filter_all_winograd(float *u, const dad_filter_view *view,
                             const dad_winograd_ops *ops) {
    const ptrdiff_t points = ops->points, inputs = view->inputs;
    const ptrdiff_t panels = dad_ceil_div(view->outputs, DAD_PANEL);
#pragma omp for collapse(2) schedule(static)
    for (ptrdiff_t panel = 0; panel < panels; panel++) {
        for (ptrdiff_t c = 0; c < inputs; c += PIECE) {
            dad_filter_winograd(u + panel * points * dad_filter_point(view), view, ops,
                                panel, c, dad_min(PIECE, inputs - c));
        }
    }
}

static float element(const dad_filter_view *view, ptrdiff_t output, ptrdiff_t input,
                     ptrdiff_t tap) {
    const ptrdiff_t taps = view->taps;
    if (output >= view->outputs) {
        return 0.0f;
    }
    if (view->pass == DAD_CONV_FORWARD) {
        return view
            ->w[((output / DAD_PANEL * view->inputs + input) * taps + tap) * DAD_PANEL +
                output % DAD_PANEL];
    }
    return view->w[((input / DAD_PANEL * view->outputs + output) * taps + taps - 1 - tap) *
                       DAD_PANEL +
                   input % DAD_PANEL];
}

bool dad_filter_is_ready(const dad_filter_view *view) {
    return view->pass == DAD_CONV_FORWARD && view->taps == 1 && !view->bfloat16;
}

void dad_filter_all_matmul(float *out, const dad_filter_view *view) {
    const ptrdiff_t inputs = view->inputs, taps = view->taps;
    const ptrdiff_t panels = dad_ceil_div(view->outputs, DAD_PANEL);
    if (view->bfloat16) { /* of one tap */
#pragma omp for
        for (ptrdiff_t panel = 0; panel < panels; panel++) {
            dad_simd()->conv->pair_bfloat16(out + panel * inputs / 2 * DAD_PANEL, DAD_PANEL,
                                            view->w + panel * inputs * DAD_PANEL,
                                            inputs / 2);
        }
        return;
    }
#pragma omp for collapse(2) schedule(static)
    for (ptrdiff_t panel = 0; panel < panels; panel++) {
        for (ptrdiff_t tap = 0; tap < taps; tap++) {
            float *target = out + (panel * taps + tap) * inputs * DAD_PANEL;
            for (ptrdiff_t c = 0; c < inputs; c++) {
                for (ptrdiff_t lane = 0; lane < DAD_PANEL; lane++) {
                    target[c * DAD_PANEL + lane] =
                        element(view, panel * DAD_PANEL + lane, c, tap);
                }
            }
        }
    }
}
