/** Before the tests: installs what many of them need, so that none spends its own time limit on it. What cannot be had is left to the tests that need it. */

import { findDebian } from './debian.ts';
import { engines } from './engines.ts';
import { findLxd } from './findLxd.ts';
import { findMinio, findNatsCli, findNatsServer, findPromtool, findVersityGw, findWeed } from './parts.ts';

const finds = [findNatsServer, findMinio, findVersityGw, findWeed, findNatsCli, findPromtool, findDebian];

/** Called by `node --test --test-global-setup`. */
export async function globalSetup(): Promise<void> {
  await Promise.allSettled([
    ...finds.map((find) => find(console.log)),
    ...engines.map((engine) => findLxd(console.log, undefined, engine)),
  ]);
}
