import { join } from 'node:path';
import { fingerprintOf } from './fingerprint.ts';
import { openFolder } from './folder.ts';
import type { LabLxd } from './lxd.ts';
import { ownLxd } from './lxdPlace.ts';
import { freePort } from './processes.ts';
import { type Log, run } from './run.ts';

/** Another LXD of this machine, in one cluster with the lab's. */
export interface Member extends AsyncDisposable {
  /** The members' names in the cluster: of the lab's own LXD, and of this one. */
  readonly names: { first: string; second: string };
  /** See LabLxd. */
  fingerprint(instance: string): Promise<Map<string, string>>;
}

/** Makes a cluster of the lab's LXD, which must be a daemon of ours of the machine's own kind, and a second one. Delete what is on this one before it ends. */
export async function addMember(first: LabLxd, name: string, log: Log): Promise<Member> {
  await using opening = new AsyncDisposableStack();
  const names = { first: 'first', second: 'second' };
  await first.lxc(['config', 'set', 'core.https_address', `127.0.0.1:${await freePort()}`]);
  await first.lxc(['cluster', 'enable', names.first]);
  const said = await first.lxc(['cluster', 'add', names.second]);
  const folder = opening.use(await openFolder(`${name}-member`, log));
  const place = await ownLxd(folder);
  const address = `127.0.0.2:${await freePort()}`;
  const preseed = {
    cluster: {
      enabled: true,
      server_name: names.second,
      server_address: address,
      cluster_token: said.trim().split('\n').at(-1),
      member_config: [
        { entity: 'storage-pool', name: first.pool, key: 'size', value: '2GiB' },
        { entity: 'storage-pool', name: first.pool, key: 'source', value: '' },
        { entity: 'storage-pool', name: first.dirPool, key: 'source', value: '' },
      ],
    },
  };
  const env = { ...folder.env, LXD_DIR: place.dir };
  await run('lxd', ['init', '--preseed'], { env, input: JSON.stringify(preseed) });
  const owned = opening.move();
  return {
    names,
    fingerprint: (instance) =>
      fingerprintOf(join(place.visibleDir, 'storage-pools', first.pool, 'containers', instance, 'rootfs')),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}
