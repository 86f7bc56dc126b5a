import manifest from '../../package.json' with { type: 'json' };

/** lxstow's own version. */
export const version: string = manifest.version;
