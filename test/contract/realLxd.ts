/** A real engine, as the contract suite wants it. */
import type { Engine } from '../lab/engines.ts';
import { openLab } from '../lab/lab.ts';
import type { ContractLxd } from './lxd.ts';

export async function openReal(engine: Engine): Promise<ContractLxd> {
  const lab = await openLab({ name: `contract-${engine}`, log: () => undefined, engine, nats: false, s3: false });
  const { lxd } = lab;
  if (!lxd) throw new Error(lab.lxdUnavailable);
  const { lxc, socket, project, pool, dirPool, launch, fingerprint } = lxd;
  const isOurs = engine !== 'lxd' || !process.env.LXSTOW_LAB_LXD_SOCKET;
  return {
    socket,
    project,
    otherProject: isOurs ? 'lxstow-lab' : undefined,
    pool,
    dirPool,
    real: lxd,
    async launch(name, { profiles = [], ...options }) {
      await launch(name, options);
      await lxc(['profile', 'assign', name, ['default', ...profiles].join(',')]);
    },
    async snapshot(name, snapshot) {
      await lxc(['snapshot', name, snapshot]);
    },
    async dropProfiles(name, profiles) {
      await lxc(['profile', 'assign', name, 'default']);
      for (const profile of profiles) await lxc(['profile', 'delete', profile]);
    },
    restart: isOurs ? () => lxd.kill('SIGKILL').then(() => lxd.start()) : undefined,
    fingerprint,
    [Symbol.asyncDispose]: () => lab[Symbol.asyncDispose](),
  };
}
