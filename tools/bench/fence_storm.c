// SPDX-License-Identifier: MIT
/*
 * Fences as fast as one thread makes and signals them: a sw_sync timeline
 * (drivers/dma-buf/sw_sync.c), one fence, one step, and so on.
 *
 * usage: fence_storm SECONDS; prints how many fences and in how many ns.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

struct create_fence {
	uint32_t value;
	char name[32];
	int32_t fence;
};

#define CREATE_FENCE _IOWR('W', 0, struct create_fence)
#define INC _IOW('W', 1, uint32_t)

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

int main(int argc, char **argv)
{
	struct create_fence made = { .name = "storm" };
	uint64_t began, until, count = 0;
	uint32_t step = 1;
	int timeline;

	if (argc != 2)
		return 2;
	timeline = open("/sys/kernel/debug/sync/sw_sync", O_RDWR);
	if (timeline < 0) {
		perror("sw_sync");
		return 1;
	}
	began = now();
	until = began + (uint64_t)(atof(argv[1]) * 1e9);
	while (now() < until) {
		for (int i = 0; i < 64; i++) {
			made.value++;
			if (ioctl(timeline, CREATE_FENCE, &made) || ioctl(timeline, INC, &step)) {
				perror("sw_sync");
				return 1;
			}
			close(made.fence);
			count++;
		}
	}
	printf("%llu %llu\n", (unsigned long long)count, (unsigned long long)(now() - began));
	return 0;
}
