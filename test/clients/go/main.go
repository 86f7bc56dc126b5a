// Drives lxstow with LXD's own Go client, and prints what it was told: one JSON object a line.
//
//	drive URL SERVER_CERT CLIENT_CERT CLIENT_KEY INSTANCE ARCHIVE
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sync/atomic"

	lxd "github.com/canonical/lxd/client"
	"github.com/canonical/lxd/shared/api"
)

func main() {
	if err := drive(os.Args[1], os.Args[5], os.Args[6]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func drive(url, instance, archive string) error {
	server, err := lxd.ConnectLXD(url, &lxd.ConnectionArgs{
		TLSServerCert: read(os.Args[2]),
		TLSClientCert: read(os.Args[3]),
		TLSClientKey:  read(os.Args[4]),
	})
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	info, _, err := server.GetServer()
	if err != nil {
		return fmt.Errorf("the server: %w", err)
	}
	tell("server", map[string]any{"auth": info.Auth, "server": info.Environment.Server})

	instances, err := server.GetInstances(api.InstanceTypeAny)
	if err != nil {
		return fmt.Errorf("instances: %w", err)
	}
	for _, each := range instances {
		tell("instance", map[string]any{"name": each.Name, "status": each.Status})
	}
	full, _, err := server.GetInstanceFull(instance)
	if err != nil {
		return fmt.Errorf("the instance: %w", err)
	}
	tell("full", map[string]any{"name": full.Name, "state": full.State.Status})

	listener, err := server.GetEvents()
	if err != nil {
		return fmt.Errorf("events: %w", err)
	}
	var operations, lifecycles atomic.Int32
	_, err = listener.AddHandler([]string{"operation"}, func(api.Event) { operations.Add(1) })
	if err != nil {
		return err
	}
	created := make(chan string, 10)
	_, err = listener.AddHandler([]string{"lifecycle"}, func(event api.Event) {
		lifecycles.Add(1)
		var lifecycle api.EventLifecycle
		if json.Unmarshal(event.Metadata, &lifecycle) == nil {
			created <- lifecycle.Action
		}
	})
	if err != nil {
		return err
	}

	creating, err := server.CreateInstanceBackup(instance, api.InstanceBackupsPost{Name: "from-go.tar", CompressionAlgorithm: "none"})
	if err != nil {
		return fmt.Errorf("creating: %w", err)
	}
	if err := creating.Wait(); err != nil {
		return fmt.Errorf("waiting: %w", err)
	}
	operation := creating.Get()
	tell("created", map[string]any{"status": operation.Status, "backups": operation.Resources["backups"], "action": <-created, "events": operations.Load() > 0})
	listener.Disconnect()

	// Not GetInstanceBackupNames: the list is one of backups, not of paths, with recursion and without.
	backups, err := server.GetInstanceBackups(instance)
	if err != nil {
		return fmt.Errorf("backups: %w", err)
	}
	names := []string{}
	for _, each := range backups {
		names = append(names, each.Name)
	}
	tell("names", map[string]any{"names": names})
	backup, _, err := server.GetInstanceBackup(instance, "from-go.tar")
	if err != nil {
		return fmt.Errorf("the backup: %w", err)
	}
	tell("backup", map[string]any{"name": backup.Name, "optimized": backup.OptimizedStorage})

	file, err := os.Create(archive)
	if err != nil {
		return err
	}
	got, err := server.GetInstanceBackupFile(instance, "from-go.tar", &lxd.BackupFileRequest{BackupFile: file})
	if err != nil {
		return fmt.Errorf("the archive: %w", err)
	}
	tell("archive", map[string]any{"size": got.Size})
	if err := file.Close(); err != nil {
		return err
	}

	all, err := server.GetOperations()
	if err != nil {
		return fmt.Errorf("operations: %w", err)
	}
	tell("operations", map[string]any{"count": len(all)})
	if err := server.DeleteOperation(operation.ID); err != nil {
		tell("refused", map[string]any{"error": err.Error()})
	}

	deleting, err := server.DeleteInstanceBackup(instance, "from-go.tar")
	if err != nil {
		return fmt.Errorf("deleting: %w", err)
	}
	if err := deleting.Wait(); err != nil {
		return fmt.Errorf("waiting for the deletion: %w", err)
	}
	_, _, err = server.GetInstanceBackup(instance, "from-go.tar")
	tell("deleted", map[string]any{"error": fmt.Sprint(err)})
	return nil
}

func read(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	return string(content)
}

func tell(what string, facts map[string]any) {
	facts["what"] = what
	line, _ := json.Marshal(facts)
	fmt.Println(string(line))
}
