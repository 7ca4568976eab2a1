/* SPDX-License-Identifier: Apache-2.0 */
/* tests/sanitizer.h - does a sanitizer bring its own malloc? Then a test cannot bring another. */
#ifndef TESTS_SANITIZER_H
#define TESTS_SANITIZER_H

#ifndef __has_feature /* clang's way to say it; gcc defines the macros */
#define __has_feature(f) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) ||                               \
	__has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZER_HAS_MALLOC 1
#else
#define SANITIZER_HAS_MALLOC 0
#endif

#endif
