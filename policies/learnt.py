raise ImportError('policies author: your policies/learnt.py was overwritten by accident; please write your version again')
