import { type Engine, engines, titleOf } from '../lab/engines.ts';
import { findLxd } from '../lab/findLxd.ts';
import { openLab } from '../lab/lab.ts';
import { startSimulator } from '../simulator/simulator.ts';
import { type ContractLxd, lxdContract } from './lxd.ts';

const log = (line: string) => console.log(line);

async function openSimulator(): Promise<ContractLxd> {
  const simulator = await startSimulator({ log });
  simulator.addProject('lxstow-lab', { 'features.profiles': 'false' });
  return {
    ...simulator,
    project: 'default',
    otherProject: 'lxstow-lab',
    real: undefined,
    async launch(name, { profiles = [], ...options }) {
      await simulator.createInstance(name, { ...options, profiles: ['default', ...profiles] });
    },
    async dropProfiles(name, profiles) {
      await simulator.deleteInstance(name);
      for (const profile of profiles) simulator.deleteProfile(profile);
    },
    async restart() {
      await simulator.stop();
      await simulator.start();
    },
  };
}

async function openReal(engine: Engine): Promise<ContractLxd> {
  const lab = await openLab({ name: `contract-${engine}`, log, engine, nats: false, s3: false });
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

lxdContract('the simulated LXD', openSimulator);
for (const engine of engines) {
  const found = await findLxd(log, undefined, engine);
  lxdContract(titleOf(engine), () => openReal(engine), found.available ? {} : { skip: found.reason });
}
