import manifest from '../../package.json' with { type: 'json' };
import carried from '../../packaging/carried.json' with { type: 'json' };

/** lxstow's own version. */
export const version: string = manifest.version;

/** The oldest major version of Node.js that runs lxstow. */
export const oldestNode = 24;

/** The nats-server that lxstow is tested with, and that its package carries. */
export const testedNatsServer: string = carried['nats-server'].version;
