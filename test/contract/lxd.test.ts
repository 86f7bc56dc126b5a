import { titleOf } from '../lab/engines.ts';
import { findLxd } from '../lab/findLxd.ts';
import { startSimulator } from '../simulator/simulator.ts';
import { type ContractLxd, lxdContract } from './lxd.ts';
import { openReal } from './realLxd.ts';

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

lxdContract('the simulated LXD', openSimulator);
const found = await findLxd(log, undefined, 'lxd');
lxdContract(titleOf('lxd'), () => openReal('lxd'), found.available ? {} : { skip: found.reason });
