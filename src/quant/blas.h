#pragma once
/// Of BLAS, column-major: a matrix of ours is seen as its transpose.
extern "C" {
void sgemm_(const char* transpose_a, const char* transpose_b, const int* rows, const int* columns,
            const int* depth, const float* alpha, const float* a, const int* a_stride,
            const float* b, const int* b_stride, const float* beta, float* c, const int* c_stride);
void strsm_(const char* side, const char* uplo, const char* transpose, const char* diagonal,
            const int* rows, const int* columns, const float* alpha, const float* a,
            const int* a_stride, float* b, const int* b_stride);
}
