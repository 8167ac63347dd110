package job

import "fmt"

// group makes rows of options that share a reason.
func group(reason string, make func(name, reason string) Option, names ...string) (all []Option) {
	for _, n := range names {
		all = append(all, make(n, reason))
	}
	return all
}

func noOp(name, reason string) Option    { return Option{Name: name, Arg: "value", NoOp: reason} }
func refused(name, reason string) Option { return Option{Name: name, Refused: reason} }

// noOps are options of fio that are accepted and change nothing, so that job files for fio run unchanged.
var noOps = concat(
	group("the store writes its log by its own means (see io); names of engines for files are accepted", engineOp,
		"ioengine"),
	group("jobs are goroutines of one process", noOpFlag, "thread", "threads"),
	group("the store allocates and lays out its own file", noOp, "fallocate", "create_serialize", "create_fsync",
		"allow_file_create", "fadvise_hint", "nrfiles", "nr_files", "openfiles", "file_service_type", "overwrite",
		"filename_format",
		"unique_filename", "file_append", "unlink_each_loop", "allow_mounted_write"),
	group("the engine chooses its memory and clock", noOp, "mem", "iomem", "iomem_align", "mem_align", "clocksource",
		"gtod_reduce", "gtod_cpu", "hugepage-size", "lockmem"),
	group("goroutines do one operation at a time, so there are no batches of requests", noOp, "iodepth_batch",
		"iodepth_batch_submit", "iodepth_batch_complete", "iodepth_batch_complete_min", "iodepth_batch_complete_max",
		"iodepth_low", "io_submit_mode", "serialize_overlap"),
	group("options of fio's engines for requests to a device", noOp, "sqthread_poll_cpu", "nonvectored", "uncached",
		"cmdprio_percentage",
		"cmdprio_class", "cmdprio", "cmdprio_bssplit", "hipri_percentage", "force_async"),
	group("options of fio's engines for requests to a device, too", noOpFlag, "hipri", "registerfiles", "fixedbufs",
		"sqthread_poll", "userspace_reap", "nowait", "thp"),
	group("the random numbers are those of PCG with any value", noOp, "random_generator", "softrandommap"),
	group("buffers are random unless an option says otherwise", noOp, "scramble_buffers"),
	group("everything is measured; the report is the same", noOp, "disable_lat", "disable_clat", "disable_slat",
		"disable_bw_measurement", "disable_bw", "slat_percentiles", "block_error_percentiles"),
	group("logs grow as needed and are not compressed", noOp, "log_entries", "log_compression", "log_compression_cpus",
		"log_store_compressed", "log_prio", "log_alternate_epoch_clock_id", "log_issue_time", "job_start_clock_id"),
	group("sizes are read and reported with 1024; kib means 1000, as in fio's default", base1024, "kb_base"),
	group("bandwidths are reported in bytes", noOp, "unit_base"),
	group("pages have checksums of their own, and verify needs no state", noOp, "verify_state_save",
		"verify_state_load",
		"verify_dump", "verify_async", "verify_async_cpus", "verify_backlog", "verify_backlog_batch", "verify_interval",
		"verify_write_sequence", "verify_header_seed", "verifysort", "verifysort_nr", "experimental_verify",
		"error_dump",
		"verify_policy"),
	group("a call completes when it returns", noOp, "thinktime_blocks_type"),
	group("one report holds all jobs, and only one process runs", noOp, "max-jobs", "alloc-size"),
	group("sequential pages are drawn as rw says", noOp, "rw_sequencer", "blockalign", "ba", "offset_align"),
	group("writes are stable by fdatasync alone", noOp, "write_barrier"),
)

// noOpFlag is noOp for an option that needs no value.
func noOpFlag(name, reason string) Option { return Option{Name: name, NoOp: reason} }

// base1024 is noOp, which takes only 1024.
func base1024(name, reason string) Option {
	o := noOp(name, reason)
	o.set = func(_ *Spec, v string) error {
		if v != "1024" {
			return fmt.Errorf("sizes are read with 1024 only; write them in bytes")
		}
		return nil
	}
	return o
}

// engineOp is noOp, which takes only engines for files.
func engineOp(name, reason string) Option {
	o := noOp(name, reason)
	o.set = func(_ *Spec, v string) error { return checkEngine(v) }
	return o
}

// refusals are options of fio that pcbench does not accept.
var refusals = concat(
	group("pages have no zones", refused, "zonemode", "zonesize", "zonecapacity", "zonerange", "zoneskip",
		"read_beyond_wp", "max_open_zones", "job_max_open_zones", "ignore_zone_limits", "zone_reset_threshold",
		"zone_reset_frequency", "recover_zbd_write_error", "write_zone_remainder"),
	group("pages are not placed on a device", refused, "fdp", "dataplacement", "data_placement", "plid_select",
		"fdp_pli_select", "plids", "fdp_pli", "dp_scheme", "write_hint", "atomic", "sprandom", "spr_num_regions",
		"spr_op",
		"spr_cs"),
	group("the log is one file, which one process has locked", refused, "lockfile", "opendir", "filetype"),
	group("the store ranges over its file itself; use fdatasync or flush_every", refused, "sync_file_range",
		"end_syncfs"),
	group("the kernel schedules goroutines, which share one process; start pcbench with nice, ionice, numactl, a "+
		"cgroup "+
		"or as another user", refused, "nice", "prio", "prioclass", "priohint", "cgroup", "cgroup_nodelete",
		"cgroup_weight", "uid", "gid", "numa_cpu_nodes", "numa_mem_policy", "ioscheduler", "comm", "gpu_dev_id"),
	group("a mask is less clear than a list; use cpus_allowed", refused, "cpumask"),
	group("run the command before or after pcbench", refused, "exec_prerun", "exec_postrun", "trigger", "trigger-file",
		"trigger-timeout", "trigger-remote"),
	group("a store that fills the disk is made by size", refused, "fill_device", "fill_fs"),
	group("blktrace describes a device; use read_iolog with fio's traces", refused, "merge_blktrace_file",
		"merge_blktrace_scalars", "merge_blktrace_iters", "merge-blktrace-only", "replay_redirect", "replay_scale",
		"replay_align", "replay_skip", "read_iolog_chunked"),
	group("jobs run at the speeds that rate gives them", refused, "flow", "flow_id", "flow_sleep", "flow_watermark"),
	group("profiles are fixed loads for devices; write a job file", refused, "profile"),
	group("a trim is a Free, and a freed page has no contents; use rw=randtrim or trimwrite", refused,
		"trim_percentage",
		"trim_verify_zero", "trim_backlog", "trim_backlog_batch"),
	group("the loop spends its time in the store; use thinktime", refused, "thinkcycles"),
	group("the whole page is verified", refused, "verify_offset", "verify_pattern_interval"),
	group("give errors by continue_on_error", refused, "ignore_error"),
	group("bs=READ,WRITE gives sizes to directions", refused, "bs_is_seq_rand"),
	group("the layout is never measured; use invalidate for a store that is not cached, or unlink=0 to keep it",
		refused,
		"create_on_open", "create_only", "pre_read"),
	group("dedupe_percentage repeats the buffer before", refused, "dedupe_mode", "dedupe_working_set_percentage",
		"dedupe_global"),
	group("operations of a sequence follow each other", refused, "random_sequence_stride", "num_range", "ramp_size"),
	group("pcbench runs on one machine, in the foreground", refused, "server", "client", "daemonize", "remote-config",
		"idle-prof", "aux-path", "bandwidth-log", "inflate-log"),
	group("this is a tool of fio's developers", refused, "debug", "cpuclock-test", "crctest", "cmdhelp", "enghelp"),
	group("an option of one of fio's engines, which pcbench does not have", refused, "cpuload", "cpumode", "cpuchunks",
		"exit_on_io_done", "hostname", "port", "protocol", "listen", "nodelay", "pingpong", "ttl", "window_size", "mss",
		"interface", "verb", "bindname", "net_nodelay", "donorname", "donor", "inplace", "program", "arguments",
		"grace_time", "std_redirect", "volume", "brick", "clustername", "clientname", "pool", "rbdname", "conf", "cont",
		"chunk_size", "object_class", "busy_poll", "touch_objects", "http_host", "http_user", "http_pass", "https",
		"http_mode", "http_verbose", "http_s3_key", "http_s3_keyid", "http_s3_region", "http_s3_storage_class",
		"http_s3_sse_customer_key", "http_s3_sse_customer_algorithm", "http_s3_security_token", "http_swift_auth_token",
		"http_object_mode", "uri", "nfs_url", "namenode", "single_instance", "hdfs_use_direct", "gpu_dev_ids",
		"cuda_io",
		"rocm_io", "libblkio_path", "libblkio_driver", "libblkio_wait_mode", "libblkio_vectored",
		"libblkio_write_zeroes_on_trim", "libblkio_force_enable_completion_eventfd", "libblkio_num_entries",
		"libblkio_pre_connect_props", "libblkio_pre_start_props", "libblkio_queue_size", "skip_bad", "cmd_type",
		"write_mode", "verify_mode", "readfua", "writefua", "sg_write_mode", "stream_id", "md_per_io_size", "pi_act",
		"pi_chk", "apptag", "apptag_mask", "xnvme_async", "xnvme_sync", "xnvme_admin", "xnvme_mem", "xnvme_dev_nsid",
		"xnvme_dev_subnqn", "xnvme_iovec", "time_based_cpu", "direct_write_to_pmem", "serverip", "ime_psync", "svcl",
		"busy_wait_polling", "stat_type"),
	group("fio no longer has them", refused, "rwmixcycle", "percentage_sequential"),
)

// notForFiles are engines of fio that do something else than reading and writing blocks of files and devices.
var notForFiles = map[string]string{
	"cpuio": "it computes", "net": "it uses the network", "netsplice": "it uses the network",
	"rdma": "it uses the network",
	"null": "it does nothing", "exec": "it runs programs", "filecreate": "it creates files",
	"filestat":   "it stats files",
	"filedelete": "it deletes files", "dircreate": "it creates directories", "dirstat": "it stats directories",
	"dirdelete": "it deletes directories", "falloc": "it allocates files", "ftruncate": "it truncates files",
	"e4defrag": "it moves extents", "rados": "it uses a cluster", "rbd": "it uses a cluster",
	"http":  "it uses the network",
	"gfapi": "it uses a cluster", "gfapi_async": "it uses a cluster", "libhdfs": "it uses a cluster",
	"nfs": "it uses the network", "libiscsi": "it uses the network", "nbd": "it uses the network",
	"mtd": "it uses flash",
	"sg":  "it sends SCSI commands", "io_uring_cmd": "it sends commands to a device", "libzbc": "it uses zones",
	"pmemblk": "it uses persistent memory", "dev-dax": "it uses persistent memory",
	"libpmem":   "it uses persistent memory",
	"ime_psync": "it uses a cluster", "ime_psyncv": "it uses a cluster", "ime_aio": "it uses a cluster",
	"dfs": "it uses a cluster", "librpma_apm_client": "it uses the network",
	"librpma_apm_server":   "it uses the network",
	"librpma_gpspm_client": "it uses the network", "librpma_gpspm_server": "it uses the network",
	"libcufile": "it uses a GPU", "libhipfile": "it uses a GPU", "libblkio": "it uses a driver of its own",
	"xnvme": "it uses a driver of its own", "external": "it is a library of yours",
}
