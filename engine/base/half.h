/* Numbers of 16 bits (IEEE binary16). */
#ifndef NOC_BASE_HALF_H
#define NOC_BASE_HALF_H

#include <stdint.h>

/* To the nearest, ties to even; infinity beyond 65504. */
uint16_t noc_half_from(float value);
double noc_half_value(uint16_t bits);

#endif
