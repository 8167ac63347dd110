package main

// checkpointTargets are the bugs in checkpoints: holds, streams and Install.
var checkpointTargets = []target{
	{"engine/internal/checkpoint/write.go", checkpointTests, []bug{
		{wrongVictim,
			"sent: g.Base+size > s.since || s.since == 0",
			"sent: g.Base+size > s.since+size || s.since == 0",
			""},
		{checkDropped, "\tk.blobs.Keep(k.image.Super.End)\n", "", ""},
	}},
	{"engine/internal/checkpoint/install.go", checkpointTests, []bug{
		{checkDropped, "err != nil || got != want {", "err != nil && got != want {", ""},
		{checkDropped, "\tx.made = false\n", "", ""},
		{syncDropped, "closeFile(&x.blob), x.log.Sync())", "closeFile(&x.blob))", ""},
		{syncDropped,
			"cmp.Or(err, closeFile(&f), x.dir.Sync())",
			"cmp.Or(err, closeFile(&f))",
			""},
	}},
	{"engine/internal/logstore/hold.go", checkpointTests, []bug{
		{checkDropped, "\t\t\tgone[id] = true\n", "\t\t\tgone[id] = false\n", ""},
	}},
}

// checkpointTests are the tests that notice them.
var checkpointTests = []string{"engine/internal/checkpoint", "engine TestCheckpoint|TestInstall|TestScrub"}
