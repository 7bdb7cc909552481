/* Convolutions: which algorithm a shape gets, and the sums that belong to no algorithm.
 *
 *   y[n, i, j, o] = b[o] + sum over c, kh, kw of w[o, c, kh, kw] x[n, i', j', c]
 *   with i' = i stride + kh - pad, j' = j stride + kw - pad, zero outside.
 *
 * 3x3 filters with stride 1 go by Winograd's algorithm, 1x1 by a matrix product on the map
 * as it is, the rest by a matrix product on patches. The choice, and with it every
 * rounding, depends on the shape of one image only. */
#include "kernels/conv2d.h"

#include <math.h>

#include "base/memory.h"
#include "base/threads.h"

enum {
    SMALL_MAP = 64, /* pixels: F(2x2) is as fast up to here, its filters half as large */
    DOUBLED_MAP = 2048, /* pixels: 81 filters instead of 36 pay from here on */
    SUM_CHANNELS = 64,
    SUM_PIXELS = 4096,
};

static bool fits(const dad_conv2d_shape *s, dad_conv_algorithm algorithm) {
    switch (algorithm) {
    case DAD_CONV_POINTWISE:
        return s->KH == 1 && s->KW == 1 && s->stride == 1 && s->pad == 0;
    case DAD_CONV_IM2COL:
        return !s->doubled;
    case DAD_CONV_WINOGRAD2:
    case DAD_CONV_WINOGRAD4:
    case DAD_CONV_WINOGRAD6:
        return s->KH == 3 && s->KW == 3 && s->stride == 1 && s->pad == 1;
    case DAD_CONV_DOUBLED:
        return s->doubled && fits(s, DAD_CONV_WINOGRAD4);
    case DAD_CONV_AUTO:
        break;
    }
    return false;
}

/* Whether the products of a shape may be of bfloat16. */
static bool rounds_operands(const dad_conv2d_shape *s) {
    return s->bfloat16 && s->C % (2 * DAD_PANEL) == 0 &&
           (fits(s, DAD_CONV_WINOGRAD4) || fits(s, DAD_CONV_POINTWISE));
}

dad_conv_algorithm dad_conv2d_algorithm(const dad_conv2d_shape *shape) {
    if (fits(shape, shape->algorithm)) {
        return shape->algorithm;
    }
    if (fits(shape, DAD_CONV_POINTWISE)) {
        return DAD_CONV_POINTWISE;
    }
    if (fits(shape, DAD_CONV_DOUBLED) && shape->H * shape->W >= DOUBLED_MAP &&
        !rounds_operands(shape)) {
        return DAD_CONV_DOUBLED;
    }
    if (fits(shape, DAD_CONV_WINOGRAD4)) {
        return shape->H * shape->W <= SMALL_MAP ? DAD_CONV_WINOGRAD2 : DAD_CONV_WINOGRAD4;
    }
    return DAD_CONV_IM2COL;
}

const dad_winograd_ops *dad_winograd_transforms(dad_conv_algorithm algorithm) {
    const dad_conv_ops *ops = dad_simd()->conv;
    switch (algorithm) {
    case DAD_CONV_WINOGRAD2:
        return ops->winograd2;
    case DAD_CONV_WINOGRAD4:
        return ops->winograd4;
    case DAD_CONV_WINOGRAD6:
        return ops->winograd6;
    case DAD_CONV_DOUBLED:
        return ops->winograd_doubled;
    default:
        return NULL;
    }
}

static const dad_winograd_ops *transforms(const dad_conv2d_shape *shape) {
    return dad_winograd_transforms(dad_conv2d_algorithm(shape));
}

/* The same shape with its algorithm settled. */
static dad_conv2d_shape resolved(const dad_conv2d_shape *shape) {
    dad_conv2d_shape copy = *shape;
    copy.algorithm = dad_conv2d_algorithm(shape);
    copy.bfloat16 = rounds_operands(shape) && copy.algorithm != DAD_CONV_IM2COL &&
                    copy.algorithm != DAD_CONV_DOUBLED;
    return copy;
}

/* The convolution that gives dx from dy, for filters that keep the size of the map. */
static dad_conv2d_shape exchanged(const dad_conv2d_shape *shape) {
    dad_conv2d_shape copy = resolved(shape);
    copy.C = shape->O;
    copy.O = shape->C;
    return copy;
}

ptrdiff_t dad_conv2d_moment_slices(const dad_conv2d_shape *shape) {
    const dad_conv2d_shape s = resolved(shape);
    if (s.algorithm == DAD_CONV_DOUBLED) {
        return dad_doubled_moment_slices(&s);
    }
    return dad_winograd_transforms(s.algorithm) ? dad_winograd_moment_slices(&s) : 0;
}

ptrdiff_t dad_conv2d_forward_scratch(const dad_conv2d_shape *shape) {
    const dad_conv2d_shape s = resolved(shape);
    if (s.algorithm == DAD_CONV_DOUBLED) {
        return dad_doubled_scratch(&s);
    }
    if (dad_winograd_transforms(s.algorithm) != NULL) {
        return dad_winograd_scratch(&s);
    }
    const dad_patch_shape patches = dad_patches_forward(&s);
    return dad_matmul_scratch(&patches);
}

void dad_conv2d_forward(float *y, const dad_conv2d_input *input, const float *w,
                        const dad_conv2d_epilogue *epilogue, const dad_conv2d_shape *shape,
                        float *scratch) {
    const dad_conv2d_epilogue none = {.bias = NULL};
    const dad_conv2d_shape s = resolved(shape);
    const dad_filter_view filter = dad_filter_of(w, &s, DAD_CONV_FORWARD);
    if (epilogue == NULL) {
        epilogue = &none;
    }
    if (s.algorithm == DAD_CONV_DOUBLED) {
        dad_doubled_forward(y, input, &filter, epilogue, &s, scratch);
    } else if (dad_winograd_transforms(s.algorithm) != NULL) {
        dad_winograd_forward(y, input, &filter, epilogue, &s, scratch);
    } else {
        const dad_patch_shape patches = dad_patches_forward(&s);
        dad_matmul_forward(y, input, &filter, epilogue, &patches, scratch);
    }
}

ptrdiff_t dad_conv2d_backward_data_scratch(const dad_conv2d_shape *shape) {
    if (transforms(shape) != NULL) {
        const dad_conv2d_shape s = exchanged(shape);
        return dad_winograd_scratch(&s);
    }
    const dad_patch_shape patches = dad_patches_backward_data(shape);
    return dad_matmul_scratch(&patches);
}

void dad_conv2d_backward_data(float *dx, const float *dy, const float *w,
                              const dad_conv2d_shape *shape, float *scratch) {
    const dad_conv2d_epilogue none = {.bias = NULL};
    const dad_conv2d_input input = {.x = dy};
    const dad_filter_view filter = dad_filter_of(w, shape, DAD_CONV_BACKWARD_DATA);
    if (transforms(shape) != NULL) {
        const dad_conv2d_shape s = exchanged(shape);
        dad_winograd_forward(dx, &input, &filter, &none, &s, scratch);
    } else {
        const dad_patch_shape patches = dad_patches_backward_data(shape);
        dad_matmul_forward(dx, &input, &filter, &none, &patches, scratch);
    }
}

dad_output_stage dad_output_stage_of(const dad_conv2d_epilogue *epilogue, ptrdiff_t n,
                                     ptrdiff_t o, ptrdiff_t O) {
    dad_output_stage stage = {.floor = epilogue->activation == DAD_RELU ? 0.0f : -INFINITY};
    for (ptrdiff_t i = 0; i < DAD_PANEL; i++) {
        const bool exists = o + i < O;
        stage.scale[i] = exists && epilogue->scale ? epilogue->scale[o + i] : 1.0f;
        if (exists && epilogue->bias != NULL) {
            stage.bias[i] += epilogue->bias[o + i];
        }
        if (exists && epilogue->image_bias != NULL) {
            stage.bias[i] += epilogue->image_bias[n * O + o + i];
        }
    }
    return stage;
}

dad_input_part dad_input_part_of(const dad_conv2d_input *input, ptrdiff_t C, ptrdiff_t c) {
    const ptrdiff_t C1 = input->x2 != NULL ? input->C1 : C;
    const bool second = c >= C1;
    dad_input_part part = {.x = second ? input->x2 : input->x,
                           .C = second ? C - C1 : C1,
                           .c = second ? c - C1 : c};
    if (input->norm != NULL) {
        part.scale = input->norm + (second ? C1 : 0);
        part.shift = part.scale + C;
        part.stride = 2 * C;
    }
    return part;
}

dad_output_map dad_output_map_of(float *y, const dad_conv2d_epilogue *epilogue,
                                 const dad_conv2d_shape *shape) {
    const ptrdiff_t floats = shape->N * shape->H * shape->W * shape->O;
    return (dad_output_map){.y = y,
                            .H = shape->H,
                            .W = shape->W,
                            .O = shape->O,
                            .epilogue = epilogue,
                            .stream = dad_is_streamed(y, floats, shape->O)};
}

dad_output_place dad_output_place_of(const dad_output_map *map, ptrdiff_t n, ptrdiff_t i,
                                     ptrdiff_t j, ptrdiff_t o, ptrdiff_t slice) {
    const dad_conv2d_epilogue *e = map->epilogue;
    const ptrdiff_t O = map->O, row = map->W * O;
    const ptrdiff_t offset = (n * map->H + i) * row + j * O + o;
    dad_output_place place = {.y = map->y + offset,
                              .row_stride = row,
                              .pixel_stride = O,
                              .channels = dad_min(DAD_PANEL, O - o),
                              .residual_row_stride = row,
                              .stream = map->stream};
    if (e->residual != NULL && e->residual_doubled) {
        const ptrdiff_t H = map->H / 2, W = map->W / 2;
        place.residual = e->residual + ((n * H + i / 2) * W + j / 2) * O + o;
        place.residual_doubled = 1;
        place.residual_row_stride = W * O;
    } else if (e->residual != NULL) {
        place.residual = e->residual + offset;
    }
    if (e->moments != NULL) {
        place.moments = e->moments + slice * DAD_MOMENTS * O + o;
        place.moments_stride = O;
    }
    return place;
}

static ptrdiff_t bias_slices(const dad_patch_shape *p) {
    return dad_ceil_div(p->N * p->HO * p->WO, SUM_PIXELS);
}

/* partial [slice][O] = sums over slices of dy's rows; db += the sum of these. */
static void backward_bias(float *db, const float *dy, const dad_patch_shape *p,
                          float *partial) {
    const dad_conv_ops *ops = dad_simd()->conv;
    const ptrdiff_t rows = p->N * p->HO * p->WO, O = p->O, slices = bias_slices(p);
#pragma omp parallel for collapse(2) num_threads(dad_num_threads())
    for (ptrdiff_t s = 0; s < slices; s++) {
        for (ptrdiff_t o = 0; o < O; o += SUM_CHANNELS) {
            ops->column_sums(partial + s * O + o, dy + s * SUM_PIXELS * O + o, O,
                             dad_min(SUM_PIXELS, rows - s * SUM_PIXELS),
                             dad_min(SUM_CHANNELS, O - o));
        }
    }
    for (ptrdiff_t o = 0; o < O; o++) {
        double sum = 0.0;
        for (ptrdiff_t s = 0; s < slices; s++) {
            sum += (double)partial[s * O + o];
        }
        db[o] += (float)sum;
    }
}

ptrdiff_t dad_conv2d_backward_filter_scratch(const dad_conv2d_shape *shape) {
    const dad_conv2d_shape s = resolved(shape);
    const dad_patch_shape patches = dad_patches_forward(&s);
    const ptrdiff_t filter = dad_winograd_transforms(s.algorithm) != NULL
                                 ? dad_winograd_filter_scratch(&s)
                                 : dad_matmul_filter_scratch(&patches);
    return dad_max(filter, bias_slices(&patches) * s.O);
}

void dad_conv2d_backward_filter(float *dw, float *db, const float *x, const float *dy,
                                const dad_conv2d_shape *shape, float *scratch) {
    const dad_conv2d_shape s = resolved(shape);
    const dad_patch_shape patches = dad_patches_forward(&s);
    if (db != NULL) {
        backward_bias(db, dy, &patches, scratch);
    }
    if (dw == NULL) {
        return;
    }
    if (dad_winograd_transforms(s.algorithm) != NULL) {
        dad_winograd_backward_filter(dw, x, dy, &s, scratch);
    } else {
        dad_matmul_backward_filter(dw, x, dy, &patches, scratch);
    }
}

void dad_sum_pixels(float *dst, const float *src, ptrdiff_t N, ptrdiff_t P, ptrdiff_t C) {
    const dad_conv_ops *ops = dad_simd()->conv;
#pragma omp parallel for collapse(2) num_threads(dad_num_threads())
    for (ptrdiff_t n = 0; n < N; n++) {
        for (ptrdiff_t c = 0; c < C; c += SUM_CHANNELS) {
            ops->column_sums(dst + n * C + c, src + n * P * C + c, C, P,
                             dad_min(SUM_CHANNELS, C - c));
        }
    }
}
