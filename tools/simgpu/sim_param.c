// SPDX-License-Identifier: GPL-2.0
/*
 * Module parameters, named and read as amdgpu's are.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/jiffies.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/string.h>

#include "sim.h"

static char lockup_timeout[256];
module_param_string(lockup_timeout, lockup_timeout, sizeof(lockup_timeout), 0444);
MODULE_PARM_DESC(lockup_timeout,
		 "Job timeouts in ms: GFX,Compute,SDMA,Video or one value for all but compute (default 10000, compute 60000; 0 keeps the default, negative is infinite)");

int sim_gpu_recovery = -1;
module_param_named(gpu_recovery, sim_gpu_recovery, int, 0444);
MODULE_PARM_DESC(gpu_recovery, "Recover from hangs (1 = on, 0 = off, -1 = auto, on)");

unsigned int sim_debug_mask;
module_param_named(debug_mask, sim_debug_mask, uint, 0444);
MODULE_PARM_DESC(debug_mask, "Bit 2 disables soft recovery (default 0)");

bool sim_fbdev;
module_param_named(sim_fbdev, sim_fbdev, bool, 0444);
MODULE_PARM_DESC(sim_fbdev, "Have a framebuffer device, and so a console (default: no)");

static const char * const sim_scope_names[SIM_NUM_SCOPES] = {
	[SIM_SCOPE_SOFT] = "soft",
	[SIM_SCOPE_RING] = "ring",
	[SIM_SCOPE_FULL] = "full",
	[SIM_SCOPE_DISPLAY] = "display",
};

static enum sim_scope sim_scope = SIM_SCOPE_DISPLAY;

/* Where recovery from a hang begins, and what a reset of the chip takes with it. */
enum sim_scope sim_reset_scope(void)
{
	return READ_ONCE(sim_scope);
}

static int sim_scope_set(const char *val, const struct kernel_param *kp)
{
	int scope = sysfs_match_string(sim_scope_names, val);

	if (scope < 0)
		return scope;
	WRITE_ONCE(sim_scope, scope);
	return 0;
}

static int sim_scope_get(char *buffer, const struct kernel_param *kp)
{
	return scnprintf(buffer, PAGE_SIZE, "%s\n", sim_scope_names[READ_ONCE(sim_scope)]);
}

static const struct kernel_param_ops sim_scope_ops = {
	.set = sim_scope_set,
	.get = sim_scope_get,
};

module_param_cb(sim_reset_scope, &sim_scope_ops, NULL, 0644);
MODULE_PARM_DESC(sim_reset_scope, "Recovery from a hang: soft (kill the job), ring, full (all rings) or display (all rings and the display; default)");

static const char * const sim_remedy_names[SIM_NUM_REMEDIES] = {
	[SIM_REMEDY_NONE] = "none",
	[SIM_REMEDY_RESTART] = "restart",
	[SIM_REMEDY_FORCE] = "force",
};

static enum sim_remedy sim_remedy_now = SIM_REMEDY_NONE;
static u32 sim_remedy_count = 1;	/* of writes, never 0 */

/* The remedy, and how often it was written: a wedged device is so until the next time. */
enum sim_remedy sim_remedy(u32 *writes)
{
	if (writes)
		*writes = READ_ONCE(sim_remedy_count);
	return READ_ONCE(sim_remedy_now);
}

/* The kernel calls these one at a time. */
static int sim_remedy_set(const char *val, const struct kernel_param *kp)
{
	int remedy = sysfs_match_string(sim_remedy_names, val);

	if (remedy < 0)
		return remedy;
	WRITE_ONCE(sim_remedy_now, remedy);
	WRITE_ONCE(sim_remedy_count, sim_remedy_count + 1 ?: 1);
	return 0;
}

static int sim_remedy_get(char *buffer, const struct kernel_param *kp)
{
	return scnprintf(buffer, PAGE_SIZE, "%s\n", sim_remedy_names[READ_ONCE(sim_remedy_now)]);
}

static const struct kernel_param_ops sim_remedy_ops = {
	.set = sim_remedy_set,
	.get = sim_remedy_get,
};

module_param_cb(sim_remedy, &sim_remedy_ops, NULL, 0644);
MODULE_PARM_DESC(sim_remedy, "What a reset of the display does for those who wait under modeset locks: none (default), restart or force; each write arms a wedged device again");

/* In jiffies, by IP; after them video, which simgpu has not. */
static long sim_lockup[SIM_NUM_IPS + 1];

/*
 * Parse lockup_timeout as amdgpu_device_get_job_timeout_settings() does on bare
 * metal: an empty word ends the list, what follows the fourth is not looked at.
 */
int sim_param_init(void)
{
	static const u32 defaults[] = { 10000, 60000, 10000, 10000 };
	char buf[sizeof(lockup_timeout)], *rest = buf, *word;
	int i, n = 0, ret;
	long ms;

	for (i = 0; i < ARRAY_SIZE(sim_lockup); i++)
		sim_lockup[i] = msecs_to_jiffies(defaults[i]);

	strscpy(buf, lockup_timeout);
	while ((word = strsep(&rest, ",")) && *word) {
		ret = kstrtol(word, 0, &ms);
		if (ret) {
			pr_err("invalid lockup_timeout parameter syntax: '%s'\n", lockup_timeout);
			return ret;
		}
		if (ms < 0) {
			pr_warn("lockup timeout disabled\n");
			add_taint(TAINT_SOFTLOCKUP, LOCKDEP_STILL_OK);
		}
		if (ms && n < ARRAY_SIZE(sim_lockup))
			sim_lockup[n] = ms < 0 ? MAX_SCHEDULE_TIMEOUT : msecs_to_jiffies(ms);
		n++;
	}
	if (n == 1)
		for (i = AMDGPU_HW_IP_DMA; i < ARRAY_SIZE(sim_lockup); i++)
			sim_lockup[i] = sim_lockup[AMDGPU_HW_IP_GFX];
	return 0;
}

/* The job timeout of an IP block in jiffies. */
long sim_lockup_timeout(u32 ip)
{
	return sim_lockup[ip];
}
