"""Functions that no report is about though they stand on top of its stack, by what they do.

Written as globs; underscores in front do not count.  What is what: the kernel's sources, in the
directories named by group.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

__all__ = ["ANCHORS", "GROUPS", "IDLE", "INTERRUPTS", "is_plumbing", "is_report"]

Test = Callable[[str], bool]


def _any_of(*tables: str) -> Test:
    globs = " ".join(tables).split()
    pattern = re.compile(
        "|".join(re.escape(glob).replace(r"\*", r"\w*").replace(r"\#", r"\d+") for glob in globs)
    )

    @lru_cache(maxsize=4096)
    def matches(name: str) -> bool:
        return pattern.fullmatch(name.lstrip("_")) is not None

    return matches


# lib/dump_stack.c, lib/bug.c, lib/ubsan.c, kernel/panic.c, kernel/kcsan, mm/{kasan,kmsan,kfence}
_REPORTS = """
dump_stack* show_stack* show_regs* dump_backtrace unwind_backtrace walk_stackframe save_stack*
stack_trace_save* arch_stack_walk print_*report* print_*bug* print_*description* print_*corruption*
print_*usage* print_address* print_unlock* print_circular* print_bad* print_irq* print_lock*
print_deadlock* panic* nmi_panic vpanic warn warn_* WARN_* slowpath_warn* report_bug* handle_bug
fixup_bug* bug_handler end_report check_panic_on_warn *kasan* asan_* hwasan_* check_memory_region*
memory_is_* *kmsan* msan_* *kcsan* tsan_* *kfence* *ubsan* handle_overflow sanitizer_* should_fail*
fail_dump read_word_at_a_time read_once_word* check_region_inline bytes_is_* object_err slab_err
slab_bug lockdep_rcu_suspicious might_sleep might_resched might_fault cant_* schedule_bug
check_preemption_disabled debug_smp_processor_id this_cpu_preempt_check trace_hardirqs_*
trace_softirqs_* instrument_* fortify_panic usercopy_* hex_dump_to_buffer print_hex_dump*
stack_chk_fail watchdog_overflow_callback
"""
# arch/*/kernel/{traps,entry*}, arch/*/mm/fault.c
_TRAPS = """
exc_* asm_exc_* asm_sysvec_* sysvec_* idtentry_* do_error_trap do_trap* do_invalid_op invalid_op
do_general_protection general_protection do_divide_error divide_error do_int3 int3 error_entry
error_exit error_code die* oops_* no_context bad_area* do_page_fault page_fault async_page_fault
do_async_page_fault do_user_addr_fault do_kern_addr_fault kernelmode_fixup_or_oops page_fault_oops
do_kernel_fault do_mem_abort do_translation_fault do_tag_check_fault do_sea do_DataAbort dabt_svc
und_svc* pabt_svc do_undefinstr el0_* el1_* el1h_* el0t_* el1t_* brk_handler do_debug_exception
do_el0_* do_el1_* call_on_*stack trap_* do_bp do_tr do_ade do_be do_cpu do_ri handle_bp* handle_ri*
handle_ade* program_check_* ret_from_except* common_exception restore_all do_double_fault
double_fault df_debug stack_segment do_stack_segment noinstr_text_start irqentry_* interrupt_entry
indirect_thunk_* x86_indirect_thunk_* x86_return_thunk kgdb_* entry_INT80* native_iret
irq_entries_start handle_exception do_alignment_* data_access_common* will_oops*
"""
# kernel/locking, include/linux/{spinlock,rwsem,mutex,seqlock}.h, lib/{lockref,dec_and_lock}.c
_LOCKS = """
*spin_lock* *spin_unlock* *spin_trylock* raw_read_* raw_write_* *read_lock *read_lock_*
*read_unlock*
*read_trylock* *write_lock* *write_unlock* *write_trylock* queued_*lock* pv_queued_* native_queued_*
lock_acquire* lock_release* lock_acquired* lock_is_held* lock_contended* lock_downgrade* lock_set_*
lock_class* unlock_lock* reacquire_held_locks validate_chain check_noncircular check_prev*
check_deadlock
check_usage* check_irq_usage check_redundant check_wait_context check_chain_key check_flags
mark_lock* mark_usage mark_held* valid_state lockdep_* register_lock_class assign_lock_key
look_up_lock_class lookup_chain_cache* add_chain_* save_trace debug_check_no_locks* debug_lockdep*
debug_mutex* debug_spin* debug_rt_mutex* debug_locks_off* debug_write* debug_read* mutex_lock*
mutex_unlock* mutex_trylock* ww_mutex_lock* ww_mutex_unlock* ww_mutex_trylock* mutex_remove_waiter
mutex_optimistic_spin mutex_spin* mutex_destroy mutex_init osq_lock* osq_unlock* down down_* up
up_read*
up_write* percpu_down_* percpu_up_* rwsem_* call_rwsem* rwbase_* rt_mutex* rt_spin* rt_read*
rt_write*
rtlock_* ldsem_* spin_bug spin_dump rwlock_bug local_lock* bit_spin_* lockref_get*
atomic_dec_and_*lock*
init_rwsem init_waitqueue_head tty_ldisc_lock* down_trylock_console_sem
"""
# lib/{string,usercopy,refcount,list_debug,vsprintf,kobject}.c, kernel/printk, arch/*/lib
_HELPERS = """
memcpy* memset* memcmp* memmove* memchr* memscan strcmp* strncmp* strcasecmp* strncasecmp* strcpy*
strncpy* strlcpy* strscpy* sized_strscpy* strlen* strnlen* strlcat* strcat* strncat* strstr*
strnstr*
strchr* strrchr* strnchr* strsep* strim* kstrdup* kmemdup* raw_copy_* copy_to_user* copy_from_user*
copy_in_user* copy_user* clear_user* strncpy_from_user* strnlen_user* copy_to_iter* copy_from_iter*
copy_from_sockptr* copy_to_sockptr* get_user* put_user* rep_movs* rep_stos* refcount_* kref_get*
kref_put* kref_sub* kref_read* atomic_* atomic64_* arch_atomic* raw_atomic* list_add* list_del*
list_move* list_replace* list_splice* list_empty* hlist_add* hlist_del* hlist_unhashed* vsnprintf
snprintf scnprintf vscnprintf sprintf vsprintf kasprintf* kvasprintf* string string_* pointer number
format_decode printk* vprintk* dev_printk* dev_info dev_notice dev_warn dev_err dev_alert dev_crit
dev_emerg debug_object* test_bit set_bit clear_bit change_bit test_and_*_bit arch_*_bit
constant_test_bit variable_test_bit find_first* find_next* bitmap_* rb_next rb_prev rb_erase*
rb_insert* rb_first wait_on_bit* wake_up wake_up_common* wake_up_sync* csum_partial* do_csum
kobject_* kset_* add_uevent_var
get_unaligned* crc*_le klist_* # string_nocheck
"""
# kernel/{workqueue,sched/completion,time/timer}.c, drivers/base, fs/sysfs: they act for callers
_SERVICES = """
flush_work* cancel_work* cancel_delayed_work* flush_delayed_work* drain_workqueue destroy_workqueue
flush_workqueue try_to_grab_pending grab_pending del_timer* timer_delete* try_to_del_timer* complete
complete_* wait_for_completion* do_wait_for_common wait_for_common* finish_wait kthread_stop
device_add device_del device_unregister device_destroy device_for_each_child device_remove_*
get_device_parent sysfs_remove_* dpm_sysfs_remove i2c_del_adapter unregister_client
hwrng_unregister tty_unregister_device unregister_netdev* rollback_registered* start_flush_work
queue_work* queue_delayed_work* unlock_page folio_unlock* check_heap_object phys_addr* dput
fast_dput
mark_buffer_dirty mark_inode_dirty check_*object* compound_head page_folio folio_flags
const_folio_flags page_to_nid perf_event_overflow* perf_event_nmi_handler intel_pmu_handle_irq
"""
# mm/{slub,slab,util,vmalloc,page_alloc,mempool,percpu}.c, net/core/skbuff.c's use of them
_ALLOC = """
*kmalloc* *kzalloc* *kcalloc* *krealloc* *kvmalloc* *vmalloc* *vzalloc* *kmem_cache* *slab*
*alloc_pages*
*kmemleak* *alloc_page *get_free_page* *kmemdup* *strdup* *memdup* create_object kfree
kfree_sensitive
kzfree kvfree* vfree* vunmap* free_page* free_unref* free_one_page free_pcp* free_percpu pcpu_*
alloc_percpu* mempool_* kmem_* post_alloc_hook get_page_from_freelist prep_new_page
kernel_init_free_pages kernel_init_pages idr_get* list_lru_init* alloc_frozen* cache_alloc*
cache_free*
cache_grow* fallback_alloc object_* slob_* *_node_track_caller* do_krealloc virt_to_cache
virt_to_head*
"""
is_report = _any_of(_REPORTS, _LOCKS)
is_plumbing = _any_of(_REPORTS, _TRAPS, _LOCKS, _HELPERS, _SERVICES)

GROUPS: dict[str, Test] = {
    "alloc": _any_of(_ALLOC),
    "any_alloc": _any_of("*alloc* radix_tree_* idr_* xas_* *_dup"),
    "odebug": _any_of(
        "debug_* *rcu* timer_* hrtimer_* *del_timer* *init_timer* add_timer* mod_timer* *work_*",
        "*_work percpu_* kobject_* free_* do_init_timer",
        _ALLOC,
    ),
    "kobject": _any_of(
        "kobject_* kref_* kset_* device_add device_del kfree_skb* skb_release_* consume_skb"
    ),
    "proc": _any_of("proc_*"),
    "usercopy": _any_of("*usercopy* check_* copy_*"),
    "rcu": _any_of("*rcu*", _ALLOC),
    "lockish": _any_of("*lock* *stack* *IRQ* *irqsave* *irqrestore*"),
    "usb": _any_of(
        "usb_submit_urb usb_start_wait_urb usb_bulk_msg usb_interrupt_msg usb_control_msg* "
        "usb_hcd_submit_urb dummy_urb_enqueue usb_kill_urb usb_kill_anchored_urbs"
    ),
    "preempt": _any_of("*preempt* *smp_processor_id*"),
    "schedule": _any_of("schedule* preempt_schedule* cond_resched* retint_* *_resched*"),
    "sleep": _any_of(
        "*sched* *_lock *_lock_* *_slowlock* down down_* up_* *completion* *kthread* *wait*",
        "*synchronize* context_switch switch_to* rwsem_* flush_*work* cancel_*work* drain_*work*",
        "rcu_barrier* folio_lock* msleep* usleep* ret_from_fork* percpu_ref_* lock_page* bit_*",
        "dump_task_* worker_thread process_one_work process_scheduled_works",
    ),
    "stall": _any_of(
        "perf_event_* *_pmu_* *watchdog_* *rcu* *nmi* *backtrace* *apic_timer_interrupt* "
        "asm_sysvec* *_cpu_stacks",
        # kernel/time, kernel/trace/trace_clock.c, arch/*/lib/delay*: whoever waits in a loop is
        # in these when the watchdog strikes, now in one and now in another
        "delay delay_* udelay ndelay const_udelay read_tsc rdtsc* native_read_tsc trace_clock*",
        "ktime_get* ktime_read* timekeeping_get_* sched_clock* *_sched_clock* local_clock*",
        "get_cycles* pvclock_* kvm_clock_* read_hpet acpi_pm_read cpu_relax rep_nop arch_timer_*",
        "arch_counter_get_*",
    ),
}

# Dispatchers (softirq, workqueue, timer, system call, file, socket and netlink operations): what
# they call is what runs, wherever in it the clock happened to strike.
ANCHORS = _any_of(
    "process_one_work process_scheduled_works worker_thread kthread smpboot_thread_fn "
    "run_ksoftirqd",
    "do_syscall* do_fast_syscall* do_int80_syscall* x64_sys_call ia32_sys_call sysenter* "
    "entry_SYSCALL*",
    "invoke_syscall* el0_svc* do_el0_svc* tracesys* system_call* ret_fast_syscall syscall_* "
    "entry_INT80*",
    "netif_receive_skb* netif_rx* do_softirq* handle_softirqs softirqentry* irq_exit* "
    "invoke_softirq",
    "call_timer_fn run_timer* expire_timers hrtimer_run* hrtimer_interrupt tasklet_action* "
    "start_secondary",
    "cpu_startup_entry ret_from_fork* do_idle rest_init start_kernel",
    "vfs_write vfs_read vfs_iter_* vfs_ioctl do_vfs_ioctl ksys_ioctl ksys_write ksys_read vfs_open",
    "vfs_readv vfs_writev vfs_fallocate new_sync_* do_iter_* blkdev_driver_ioctl blkdev_ioctl",
    "compat_blkdev_ioctl blkdev_common_ioctl full_proxy_* call_read_iter call_write_iter call_mmap",
    "mmap_region do_mmap do_dentry_open sock_sendmsg* sock_recvmsg* sock_release sys_setsockopt",
    "do_sock_setsockopt kernel_setsockopt sock_common_setsockopt sys_listen kernel_listen",
    "sk_common_release sock_mmap sys_accept* kernel_accept sock_do_ioctl sock_ioctl "
    "compat_sock_ioctl",
    "nfnetlink_rcv_msg rtnetlink_rcv_msg genl_rcv_msg genl_family_rcv_msg* netlink_rcv_skb",
    "sock_write_iter sock_read_iter SyS_ioctl SyS_connect SyS_socketpair SYSC_ioctl SYSC_connect",
    "sys_connect* sys_ioctl compat_sys_ioctl do_sys_ioctl se_sys_ioctl x64_sys_ioctl "
    "ia32_sys_ioctl arm64_sys_ioctl "
    "x64_sys_connect",
    "arm64_sys_connect do_fault handle_mm_fault do_page_fault page_fault fput task_work_run "
    "exit_to_user*",
    "asm_exc_page_fault exc_page_fault",
)
# Where an interrupt cut in: what follows is what it cut.
INTERRUPTS = _any_of(
    "sysvec_*apic_timer* asm_sysvec_*apic_timer* sysvec_irq_work asm_sysvec_irq_work "
    "*apic_timer_interrupt",
    "sysvec_call_function* asm_sysvec_call_function* reschedule_interrupt "
    "asm_sysvec_reschedule_ipi",
    "el1_irq el1_interrupt el1h_64_irq* irq_svc timer_interrupt* decrementer_* hardware_interrupt*",
    "ret_from_intr do_IRQ gic_handle_irq call_function_interrupt irq_work_interrupt end_repeat_nmi",
    "asm_exc_nmi nmi handle_arch_irq common_interrupt asm_common_interrupt",
)  # fmt: skip
# Kernel threads and idle loops that a stall's report shows besides what stalls.
IDLE = _any_of(
    "rcu_gp_* rcu_nocb_kthread rcu_cb_kthread rcu_par_* rcu_tasks_kthread do_idle cpu_idle*",
    "default_idle* mwait_idle* native_safe_halt acpi_idle* arch_cpu_idle",
)
