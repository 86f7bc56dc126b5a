/** The contract on the engines beside the machine's LXD, which run side by side. */
import { describe } from 'node:test';
import { engines, titleOf } from '../lab/engines.ts';
import { findLxd } from '../lab/findLxd.ts';
import { lxdContract } from './lxd.ts';
import { openReal } from './realLxd.ts';

const caged = engines.filter((engine) => engine !== 'lxd');
const found = await Promise.all(caged.map((engine) => findLxd(console.log, undefined, engine)));

describe('an engine in a root filesystem of its own', { concurrency: true }, () => {
  for (const [at, engine] of caged.entries()) {
    const here = found[at];
    lxdContract(titleOf(engine), () => openReal(engine), here && !here.available ? { skip: here.reason } : {});
  }
});
