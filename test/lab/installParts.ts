/** Before the tests: installs what many of them need, so that none spends its own time limit on it. What cannot be had is left to the tests that need it. */

import { architectureOf } from '../../packaging/deb/architecture.ts';
import { goPrograms, isal, nodeFor } from '../../packaging/deb/carried.ts';
import { forEach } from '../../services/concurrency/orderedMap.ts';
import { findDrive, findLxc, findPylxd } from './clients.ts';
import { findDebian } from './debian.ts';
import { engines } from './engines.ts';
import { findLxd } from './findLxd.ts';
import { findIsal, findMc, findNatsCli, findNatsPy, findNatsServer, findPromtool } from './parts.ts';
import { errorText, type Log } from './run.ts';
import { findS3, serversHere } from './s3.ts';

const log = console.log;
const architecture = architectureOf(process.arch === 'arm64' ? 'arm64' : 'amd64');

type Find = (log: Log) => Promise<unknown>;

const fromApt: Find[] = [() => findLxd(log, undefined, 'lxd'), findPromtool, findIsal, findDebian];
const others: Find[] = [
  findNatsServer,
  ...serversHere.map((kind) => () => findS3(kind, log)),
  ...[findNatsCli, findMc, findNatsPy, findPylxd, findDrive, findLxc],
];
const ofPackage: Find[] = [nodeFor, goPrograms, isal].map((find) => () => find(architecture));

/** Called by `node --test --test-global-setup`. */
export async function globalSetup(): Promise<void> {
  await Promise.all([
    // Two runs of apt-get are in each other's way. Engines are made from findDebian()'s system.
    install(fromApt, 1).then(() => install(engines.map((engine) => () => findLxd(log, undefined, engine)))),
    // Go uses all cores for one build.
    install(others, 2),
  ]);
  // Where it can, it takes what was built above.
  await install(ofPackage, 1);
}

async function install(finds: Find[], limit = finds.length): Promise<void> {
  await forEach(finds, limit, (find) => find(log).catch((error: unknown) => log(errorText(error))));
}
