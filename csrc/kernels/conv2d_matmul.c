/* Convolutions as matrix products: y [pixels, O] = patches [pixels, taps C] w.
 *
 * A 1x1 filter's patches are the map itself; any other filter's are copied out, some pixels
 * at a time. The gradient of the input is the same product on dy: with stride s its pixels
 * stand s apart between zeros (dilation), so every pixel of dx is written once, by one
 * thread. The product is our own, on packed panels: a row's value does not depend on the
 * rows around it. In bfloat16 a 1x1 filter's pixels are copied out too, rounded.
 *
 * The gradient of the filter is patches^T dy, on slices of pixels cut by shape; their
 * partial results are added in order.
 *
 * Scratch: forward [filter], per thread [products][patches]; filter [partials], per thread
 * [groups of dy][a group of patches][patches]. */
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
#include "kernels/conv2d.h"

enum {
    ROWS = 96, /* pixels of a task: a multiple of the rows of every micro-kernel */
    TASK_CHANNELS = 128, /* output channels of a task, when there are no patches to share */
    FILTER_CHANNELS = 128, /* the same in the gradient of the filter */
    SLICES = 16,           /* of pixels at most, in the gradient of the filter */
    SLICE_ROWS = 512,      /* in a slice at least */
    SUM_ROWS = 128,        /* that are added up apart, in the gradient of the filter */
};

dad_patch_shape dad_patches_forward(const dad_conv2d_shape *s) {
    return (dad_patch_shape){.N = s->N,
                             .H = s->H,
                             .W = s->W,
                             .C = s->C,
                             .HO = dad_conv2d_out(s->H, s->KH, s->stride, s->pad),
                             .WO = dad_conv2d_out(s->W, s->KW, s->stride, s->pad),
                             .O = s->O,
                             .KH = s->KH,
                             .KW = s->KW,
                             .stride = s->stride,
                             .dilation = 1,
                             .pad_y = s->pad,
                             .pad_x = s->pad,
                             .bfloat16 = s->bfloat16};
}

dad_patch_shape dad_patches_backward_data(const dad_conv2d_shape *s) {
    return (dad_patch_shape){.N = s->N,
                             .H = dad_conv2d_out(s->H, s->KH, s->stride, s->pad),
                             .W = dad_conv2d_out(s->W, s->KW, s->stride, s->pad),
                             .C = s->O,
                             .HO = s->H,
                             .WO = s->W,
                             .O = s->C,
                             .KH = s->KH,
                             .KW = s->KW,
                             .stride = 1,
                             .dilation = s->stride,
                             .pad_y = s->KH - 1 - s->pad,
                             .pad_x = s->KW - 1 - s->pad};
}

/* The map serves as its own patches. */
static bool is_pointwise(const dad_patch_shape *s) {
    return s->KH == 1 && s->KW == 1 && s->stride == 1 && s->dilation == 1 &&
           s->pad_y == 0 && s->pad_x == 0;
}

static ptrdiff_t depth_of(const dad_patch_shape *s) { return s->KH * s->KW * s->C; }
/* Floats that hold a row of patches. */
static ptrdiff_t row_size(const dad_patch_shape *s) {
    return dad_operand_size(depth_of(s), s->bfloat16);
}
static ptrdiff_t rows_of(const dad_patch_shape *s) { return s->N * s->HO * s->WO; }

/* The input coordinate that output i meets at tap k, or -1. */
static ptrdiff_t input_at(ptrdiff_t i, ptrdiff_t k, ptrdiff_t stride, ptrdiff_t dilation,
                          ptrdiff_t pad, ptrdiff_t size) {
    const ptrdiff_t at = i * stride + k - pad;
    return at >= 0 && at % dilation == 0 && at / dilation < size ? at / dilation : -1;
}

/* One row of a patch, [KW][C], for output column j; `line` is the input's row, or NULL
 * outside. NHWC makes it one run where no tap falls outside. */
static void copy_taps(float *taps, const float *line, const dad_patch_shape *s,
                      ptrdiff_t j) {
    const ptrdiff_t C = s->C, first = j * s->stride - s->pad_x;
    const size_t pixel = (size_t)C * sizeof(float);
    if (line == NULL) {
        memset(taps, 0, (size_t)s->KW * pixel);
        return;
    }
    if (s->dilation == 1 && first >= 0 && first + s->KW <= s->W) {
        memcpy(taps, line + first * C, (size_t)s->KW * pixel);
        return;
    }
    for (ptrdiff_t k = 0; k < s->KW; k++, taps += C) {
        const ptrdiff_t at = input_at(j, k, s->stride, s->dilation, s->pad_x, s->W);
        if (at < 0) {
            memset(taps, 0, pixel);
        } else {
            memcpy(taps, line + at * C, pixel);
        }
    }
}

/* patches [rows][KH][KW][C] of the output pixels first .. first + rows - 1. */
static void copy_patches(float *patches, const float *x, const dad_patch_shape *s,
                         ptrdiff_t first, ptrdiff_t rows) {
    for (ptrdiff_t row = first; row < first + rows; row++) {
        const ptrdiff_t j = row % s->WO, i = row / s->WO % s->HO, n = row / (s->WO * s->HO);
        for (ptrdiff_t k = 0; k < s->KH; k++, patches += s->KW * s->C) {
            const ptrdiff_t at = input_at(i, k, s->stride, s->dilation, s->pad_y, s->H);
            copy_taps(patches, at < 0 ? NULL : x + (n * s->H + at) * s->W * s->C, s, j);
        }
    }
}

/* The pixels first .. first + rows - 1 in bfloat16, [rows][C]. */
static void round_pixels(float *out, const dad_conv2d_input *input,
                         const dad_patch_shape *s, ptrdiff_t first, ptrdiff_t rows) {
    const dad_conv_ops *ops = dad_simd()->conv;
    if (input->x2 == NULL) {
        ops->round_bfloat16(out, input->x + first * s->C, rows * s->C);
        return;
    }
    const ptrdiff_t C1 = input->C1, C2 = s->C - C1;
    for (ptrdiff_t row = first; row < first + rows; row++, out += s->C / 2) {
        ops->round_bfloat16(out, input->x + row * C1, C1);
        ops->round_bfloat16(out + C1 / 2, input->x2 + row * C2, C2);
    }
}

static ptrdiff_t own_scratch(const dad_patch_shape *s) {
    const bool in_place = is_pointwise(s) && !s->bfloat16;
    const ptrdiff_t patches = in_place ? 0 : dad_round_up(ROWS * row_size(s), DAD_PANEL);
    return patches + DAD_PANEL_PAIR * ROWS * DAD_PANEL;
}

ptrdiff_t dad_matmul_scratch(const dad_patch_shape *s) {
    return dad_filter_size(s->O, s->C, s->KH * s->KW) + own_scratch(s) * dad_num_threads();
}

/* y [rows, channels o .. o + 15] = products [rows][16] through the epilogue. The rows may
 * belong to several images. */
static void emit_panel(float *y, const float *products, const dad_conv2d_epilogue *epilogue,
                       const dad_patch_shape *s, ptrdiff_t first, ptrdiff_t rows,
                       ptrdiff_t o) {
    const ptrdiff_t pixels = s->HO * s->WO;
    for (ptrdiff_t done = 0; done < rows;) {
        const ptrdiff_t row = first + done, n = row / pixels;
        const ptrdiff_t run = dad_min(rows - done, (n + 1) * pixels - row);
        const ptrdiff_t offset = row * s->O + o;
        const dad_output_stage stage = dad_output_stage_of(epilogue, n, o, s->O);
        dad_simd()->conv->emit(y + offset, s->O, products + done * DAD_PANEL, run,
                               dad_min(DAD_PANEL, s->O - o), &stage,
                               epilogue->residual ? epilogue->residual + offset : NULL,
                               dad_is_streamed(y, s->N * pixels * s->O, s->O));
        done += run;
    }
}

typedef struct {
    const dad_patch_shape *shape;
    const dad_conv2d_input *input;
    const float *packed;  /* [panel][depth][16] */
    const float *patches; /* [rows, depth], or NULL where the map serves as them */
} matmul_job;

/* products [panel][ROWS][16] of `count` pixels from `first` on, for one or two panels. */
static void multiply(float *products, const matmul_job *job, ptrdiff_t first,
                     ptrdiff_t count, ptrdiff_t o, int panels) {
    dad_product *product = dad_product_of(job->shape->bfloat16);
    const ptrdiff_t depth = row_size(job->shape);
    const float *b = job->packed + o * depth, *a = job->patches;
    ptrdiff_t part = depth;
    if (a == NULL) {
        part = job->input->x2 != NULL ? job->input->C1 : depth;
        a = job->input->x + first * part;
    }
    product(products, ROWS * DAD_PANEL, a, part, b, DAD_PANEL * depth, panels, count, part,
            0);
    if (part < depth) {
        product(products, ROWS * DAD_PANEL, job->input->x2 + first * (depth - part),
                depth - part, b + part * DAD_PANEL, DAD_PANEL * depth, panels, count,
                depth - part, 1);
    }
}

void dad_matmul_forward(float *y, const dad_conv2d_input *input,
                        const dad_filter_view *filter, const dad_conv2d_epilogue *epilogue,
                        const dad_patch_shape *s, float *scratch) {
    const bool direct = is_pointwise(s), ready = dad_filter_is_ready(filter);
    const ptrdiff_t rows = rows_of(s);
    const ptrdiff_t task = direct ? TASK_CHANNELS : dad_round_up(s->O, DAD_PANEL);
    float *packed = scratch, *owns = packed + dad_filter_size(s->O, s->C, s->KH * s->KW);
#pragma omp parallel num_threads(dad_num_threads())
    {
        float *products = owns + own_scratch(s) * dad_thread_id();
        float *patches = products + DAD_PANEL_PAIR * ROWS * DAD_PANEL;
        const matmul_job job = {s, input, ready ? filter->w : packed,
                                direct && !s->bfloat16 ? NULL : patches};
        if (!ready) {
            dad_filter_all_matmul(packed, filter);
        }
#pragma omp for collapse(2) schedule(dynamic)
        for (ptrdiff_t first = 0; first < rows; first += ROWS) {
            for (ptrdiff_t begin = 0; begin < s->O; begin += task) {
                const ptrdiff_t count = dad_min(ROWS, rows - first);
                const ptrdiff_t end = dad_min(begin + task, s->O);
                if (s->bfloat16) {
                    round_pixels(patches, input, s, first, count);
                } else if (!direct) {
                    copy_patches(patches, input->x, s, first, count);
                }
                for (ptrdiff_t o = begin; o < end; o += DAD_PANEL_PAIR * DAD_PANEL) {
                    const int panels = dad_panels_at(o, end);
                    multiply(products, &job, first, count, o, panels);
                    for (int panel = 0; panel < panels; panel++) {
                        emit_panel(y, products + panel * ROWS * DAD_PANEL, epilogue, s,
                                   first, count, o + panel * DAD_PANEL);
                    }
                }
            }
        }
        dad_stream_end();
    }
}

/* ---- the gradient of the filter -------------------------------------------------- */

/* Rows of a slice: by shape alone. */
static ptrdiff_t slice_rows(const dad_patch_shape *s) {
    return dad_max(SLICE_ROWS, dad_ceil_div(rows_of(s), SLICES));
}

/* A slice's partial gradient, [panel][depth][16] as in dw, whole groups of the depth. */
static ptrdiff_t partial_panel(const dad_patch_shape *s) {
    return dad_round_up(depth_of(s), DAD_PANEL) * DAD_PANEL;
}
static ptrdiff_t partial_size(const dad_patch_shape *s) {
    return dad_ceil_div(s->O, DAD_PANEL) * partial_panel(s);
}

static ptrdiff_t filter_own_scratch(const dad_patch_shape *s) {
    const ptrdiff_t patches = is_pointwise(s) ? 0 : SUM_ROWS * depth_of(s);
    return (FILTER_CHANNELS + DAD_PANEL) * SUM_ROWS + dad_round_up(patches, DAD_PANEL);
}

ptrdiff_t dad_matmul_filter_scratch(const dad_patch_shape *s) {
    const ptrdiff_t slices = dad_ceil_div(rows_of(s), slice_rows(s));
    return slices * partial_size(s) + filter_own_scratch(s) * dad_num_threads();
}

/* group [rows][16] = channels c .. c + 15 of x [rows, C], zero past the last. */
static void copy_group(float *group, const float *x, ptrdiff_t C, ptrdiff_t c,
                       ptrdiff_t rows) {
    const dad_strip_source source = {.image = x, .H = 1, .W = rows, .C = C};
    dad_simd()->conv->strip(group, &source, c, 0, 0, 1, rows);
}

/* partial [panel][depth][16] = patches^T dy over rows first .. end - 1 and the channels
 * begin .. of dy [rows, O], FILTER_CHANNELS of them at most. */
static void multiply_slice(float *partial, const float *x, const float *dy, ptrdiff_t begin,
                           const dad_patch_shape *s, ptrdiff_t first, ptrdiff_t end,
                           float *own) {
    const ptrdiff_t depth = depth_of(s), size = SUM_ROWS * DAD_PANEL;
    const ptrdiff_t panel = partial_panel(s);
    const ptrdiff_t channels = dad_min(FILTER_CHANNELS, s->O - begin);
    float *groups = own, *group = groups + FILTER_CHANNELS * SUM_ROWS;
    float *patches = group + size;
    partial += begin / DAD_PANEL * panel;
    for (ptrdiff_t row = first; row < end; row += SUM_ROWS) {
        const ptrdiff_t count = dad_min(SUM_ROWS, end - row);
        const float *a = x + row * depth;
        if (!is_pointwise(s)) {
            copy_patches(patches, x, s, row, count);
            a = patches;
        }
        for (ptrdiff_t o = 0; o < channels; o += DAD_PANEL) {
            copy_group(groups + o * SUM_ROWS, dy + row * s->O, s->O, begin + o, count);
        }
        for (ptrdiff_t d = 0; d < depth; d += DAD_PANEL) {
            copy_group(group, a, depth, d, count);
            for (ptrdiff_t o = 0; o < channels; o += DAD_PANEL_PAIR * DAD_PANEL) {
                dad_simd()->conv->outer_product(
                    partial + o / DAD_PANEL * panel + d * DAD_PANEL, panel, group,
                    groups + o * SUM_ROWS, size, dad_panels_at(o, channels), count,
                    row > first);
            }
        }
    }
}

/* A panel of dw, [C][taps][16] += the slices' [taps][C][16], in order. */
static void add_slices(float *dw, const float *partial, const dad_patch_shape *s,
                       ptrdiff_t slices) {
    const ptrdiff_t taps = s->KH * s->KW, size = partial_size(s);
    for (ptrdiff_t tap = 0; tap < taps; tap++) {
        for (ptrdiff_t c = 0; c < s->C; c++) {
            dad_add_partials(dw + (c * taps + tap) * DAD_PANEL,
                             partial + (tap * s->C + c) * DAD_PANEL, size, slices);
        }
    }
}

void dad_matmul_backward_filter(float *dw, const float *x, const float *dy,
                                const dad_patch_shape *s, float *scratch) {
    const ptrdiff_t rows = rows_of(s), depth = depth_of(s), size = slice_rows(s);
    const ptrdiff_t slices = dad_ceil_div(rows, size);
    float *owns = scratch + slices * partial_size(s);
#pragma omp parallel num_threads(dad_num_threads())
    {
        float *own = owns + filter_own_scratch(s) * dad_thread_id();
#pragma omp for collapse(2) schedule(dynamic)
        for (ptrdiff_t slice = 0; slice < slices; slice++) {
            for (ptrdiff_t o = 0; o < s->O; o += FILTER_CHANNELS) {
                multiply_slice(scratch + slice * partial_size(s), x, dy, o, s, slice * size,
                               dad_min(rows, (slice + 1) * size), own);
            }
        }
#pragma omp for
        for (ptrdiff_t o = 0; o < s->O; o += DAD_PANEL) {
            add_slices(dw + o * depth, scratch + o / DAD_PANEL * partial_panel(s), s,
                       slices);
        }
    }
}
